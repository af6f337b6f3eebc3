"""Tuned prompts as PEFT folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from pt_core.sealed import check_finite, write_sealed
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.interop.peft_folder import CONFIG, KEY, TASK_TYPES, WEIGHTS, decoder_slots, even
from pt_language.method import LanguageMethod
from pt_language.methods.cpt import CPT
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix
from pt_language.methods.prompt_tuning import PromptTuning


def export_peft(method: LanguageMethod, out: Path, base_model: str | None = None) -> list[str]:
    """Write a PEFT folder of a tuned prompt.

    Args:
        method: prompt_tuning, p_tuning, prefix or cpt, without a classification head.
        out: folder to write; must not exist.
        base_model: recorded as base_model_name_or_path (default: the backbone's source without its kind).

    Returns:
        remarks for the user.

    Raises:
        UserError: a method without a form in PEFT, a head, or an `out` that exists.
    """
    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    config, prompt = peft_form(method)
    kind, _, name = method.backbone.source.partition(":")
    name, _, revision = name.partition("@")
    config |= {"base_model_name_or_path": base_model or (name if kind in ("hf", "local") else method.backbone.source)}
    config |= {"revision": revision or None, "inference_mode": True, "modules_to_save": None, "auto_mapping": None}
    tensors = {KEY: prompt.detach().float().cpu().contiguous()}
    check_finite(tensors, "the method")
    write_sealed(out, {WEIGHTS: tensors, CONFIG: json.dumps(config, indent=2, sort_keys=True)})
    notes = []
    if method.backbone.kind == "encoder":
        notes.append(
            "PEFT pools the first position, which is a virtual token; this prompt was tuned with pooling behind the prompt"
        )
    return notes


def peft_form(method: LanguageMethod) -> tuple[dict[str, Any], Tensor]:
    """(configuration, prompt_embeddings) of a tuned method.

    Raises:
        UserError: PEFT has no form for it.
    """
    backbone, sizes = method.backbone, method.backbone.sizes
    if method.head is not None:
        raise UserError(
            "PEFT's prompt folders have no place for a classification head: tune with --scoring words to export"
        )
    config: dict[str, Any] = {
        "task_type": TASK_TYPES[backbone.kind],
        "token_dim": backbone.dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.depth,
    }
    with torch.no_grad():
        if isinstance(method, PromptTuning):
            prompt = method.prompt.detach()
            config |= {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"}
        elif isinstance(method, PTuning):
            prompt = method.value().detach()
            config |= {
                "peft_type": "P_TUNING",
                "encoder_reparameterization_type": "MLP",
                "encoder_hidden_size": backbone.dim,
            }
            config |= {"encoder_num_layers": 2, "encoder_dropout": 0.0}
        elif isinstance(method, Prefix):
            prompt = method.value().detach()
            kept = even(backbone)
            if kept is None:
                raise UserError(
                    f"PEFT's prefixes have keys and values of one width in all layers; {backbone.source!r} keeps {_shapes(backbone)}"
                )
            wanted = _heads_of_peft(backbone, kept)
            if wanted != kept[1:]:
                raise UserError(
                    f"PEFT would give {backbone.source!r} prefixes of {wanted[0]} heads of width {wanted[1]}, by its configuration; what "
                    f"it keeps are {_shapes(backbone)}"
                )
            # PEFT splits rows by these alone: they describe the keys and values that are kept, not queries.
            config |= {"peft_type": "PREFIX_TUNING", "prefix_projection": False, "encoder_hidden_size": backbone.dim}
            config |= {"num_layers": kept[0], "num_attention_heads": kept[1], "token_dim": kept[1] * kept[2]}
            if backbone.kind == "encoder-decoder":
                layers = 2 * sizes.depth  # with N layers PEFT would give layers i and i + N / 2 the same prefix
                config |= {"num_transformer_submodules": 2, "num_layers": layers}
                slots = prompt.view(len(prompt), 2 * sizes.depth, -1)
                spread = slots.new_zeros(len(prompt), 2 * layers, slots.shape[2])
                spread[:, decoder_slots(layers, sizes.depth)] = slots
                prompt = spread.flatten(1)
        elif isinstance(method, CPT):
            prompt = method.prompt().detach()
            own = method.config
            config |= {
                "peft_type": "CPT",
                "cpt_token_ids": method.ids.tolist(),
                "cpt_mask": [1] * len(method.ids),
                "cpt_tokens_type_mask": method.codes.tolist(),
                "opt_weighted_loss_type": own.weighting,
                "opt_loss_decay_factor": own.gamma,
                "opt_projection_epsilon": own.epsilon_input,
                "opt_projection_format_epsilon": own.epsilon_format,
            }
        else:
            raise UserError(
                f"PEFT has no form for {type(method).__name__}; it has one for prompt_tuning, p_tuning, prefix and cpt"
            )
    return {**config, "num_virtual_tokens": len(prompt)}, prompt


def _heads_of_peft(backbone: LanguageBackbone, kept: tuple[int, int, int]) -> tuple[int, int]:
    """(heads, width) with which PEFT reads a prefix: those of a configuration that has key/value heads, whatever the folder says."""
    told = backbone.module.config.get_text_config().to_dict()  # type: ignore[union-attr, operator]
    if told.get("num_key_value_heads") is None:
        return kept[1:]
    return int(told["num_key_value_heads"]), int(told.get("head_dim") or kept[2])


def _shapes(backbone: LanguageBackbone) -> str:
    """What a model keeps, in words."""
    found = dict.fromkeys(backbone.pairs or ())
    return ", ".join(f"{heads} heads with keys of {key} and values of {value}" for heads, key, value in found)
