"""Prompts in the format of the PEFT library: `adapter_config.json` and `adapter_model.safetensors` with one tensor, `prompt_embeddings`.

=================  ==============================================  =================================================
method             peft_type                                       `prompt_embeddings`
=================  ==============================================  =================================================
prompt_tuning      PROMPT_TUNING                                   (L * submodules, d); rows 0 .. L - 1 are used
p_tuning           P_TUNING                                        the same, what the encoder produced
prefix             PREFIX_TUNING                                   (L, N * 2 * token_dim), token_dim = heads_kv * d_head
cpt                CPT                                             (L, d) = E0 + delta, with ids and type codes in the config
=================  ==============================================  =================================================

Nothing in a folder reaches a loader: the tensor is read from safetensors, and of the config only numbers and names are looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pt_core import Task
from pt_core.errors import ArtifactError, ConfigError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pt_language.adapters import LanguageBackbone
from pt_language.method import LanguageMethod
from pt_language.methods.cpt import CPT, CPTConfig
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix, PrefixConfig
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig

CONFIG, WEIGHTS, KEY = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"
LARGEST = 2**20
TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS"}


def export_peft(method: Any, folder: str | Path, base_model: str | None = None) -> None:
    """Write a tuned prompt as a PEFT folder.

    Raises:
        ConfigError: a method PEFT has no format for, or an existing folder with other content.
    """
    folder = Path(folder)
    if folder.exists() and (
        not folder.is_dir() or any(p.name not in (CONFIG, WEIGHTS, "README.md") for p in folder.iterdir())
    ):
        raise ConfigError(f"{folder} exists and is no PEFT folder; give another --out")
    tensor, config = peft_parts(method)
    if getattr(method, "head", None) is not None:
        raise ConfigError(
            "a classification head has no place in a PEFT prompt folder; tune with --scoring words to export"
        )
    backbone: LanguageBackbone = method.backbone
    sizes = backbone.sizes
    shared = {
        "task_type": TASKS[backbone.kind],
        "base_model_name_or_path": base_model or backbone.source.removeprefix("hf:").removeprefix("local:"),
        "revision": None,
        "inference_mode": True,
        "num_transformer_submodules": 1,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.depth,
        "token_dim": backbone.dim,
        "modules_to_save": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.part" for name in (CONFIG, WEIGHTS)}
    save_file({KEY: tensor.detach().float().cpu().contiguous()}, parts[WEIGHTS], metadata={"format": "pt"})
    parts[CONFIG].write_text(json.dumps({**shared, **config}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in (WEIGHTS, CONFIG):
        os.replace(parts[name], folder / name)


@torch.no_grad()
def peft_parts(method: Any) -> tuple[Tensor, dict[str, Any]]:
    """(prompt_embeddings, the method's own entries of adapter_config.json)."""
    if isinstance(method, PromptTuning):
        return method.prompt, {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": len(method.prompt),
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
        }
    if isinstance(method, PTuning):
        rows = method.value()
        return rows, {
            "peft_type": "P_TUNING",
            "num_virtual_tokens": len(rows),
            "encoder_reparameterization_type": "LSTM" if method.config.encoder == "lstm" else "MLP",
            "encoder_hidden_size": method.config.hidden or method.backbone.dim,
            "encoder_num_layers": 2,
            "encoder_dropout": 0.0,
        }
    if isinstance(method, Prefix):
        theta, sizes = method.value(), method.backbone.sizes
        return theta, {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": len(theta),
            "encoder_hidden_size": method.backbone.dim,
            "prefix_projection": False,
            "token_dim": sizes.kv_heads * sizes.head_dim,
            "num_attention_heads": sizes.kv_heads,
        }
    if isinstance(method, CPT):
        return method.prompt(), {
            "peft_type": "CPT",
            "num_virtual_tokens": len(method.ids),
            "cpt_token_ids": method.ids.tolist(),
            "cpt_mask": [1] * len(method.ids),
            "cpt_tokens_type_mask": method.codes.tolist(),
            "opt_weighted_loss_type": method.config.weighting,
            "opt_loss_decay_factor": method.config.gamma,
            "opt_projection_epsilon": method.config.epsilon_input,
            "opt_projection_format_epsilon": method.config.epsilon_format,
        }
    name = type(method).__name__
    raise ConfigError(f"PEFT has no format for {name}; prompt_tuning, p_tuning, prefix and cpt can be exported")


def import_peft(folder: str | Path, backbone: LanguageBackbone, task: Task) -> tuple[str, LanguageMethod]:
    """(method id, method) from a PEFT folder. P_TUNING becomes `prompt_tuning`: the network that made the prompt is not stored.

    Raises:
        ArtifactError: missing, damaged, of another kind, or not fitting the backbone; names expected and found numbers.
    """
    folder = Path(folder)
    config, tensor = _read(folder)
    kind, length = config.get("peft_type"), config.get("num_virtual_tokens")
    if not isinstance(length, int) or isinstance(length, bool) or not 0 < length < LARGEST:
        raise ArtifactError(f"{folder / CONFIG} has no valid num_virtual_tokens (found {length!r})")
    wanted, found = TASKS[backbone.kind], config.get("task_type")
    if found not in (None, wanted):
        raise ArtifactError(
            f"{folder} holds a {found} prompt; backbone {backbone.source!r} is of kind {backbone.kind} ({wanted})"
        )
    if not torch.isfinite(tensor).all():
        raise ArtifactError(f"{folder / WEIGHTS} has values that are not finite")
    if kind in ("PROMPT_TUNING", "P_TUNING"):
        return "prompt_tuning", _input_prompt(tensor, length, backbone, task, folder)
    if kind == "PREFIX_TUNING":
        return "prefix", _prefix(tensor, length, backbone, task, folder)
    if kind == "CPT":
        return "cpt", _context(tensor, length, config, backbone, task, folder)
    raise ArtifactError(
        f"{folder} holds peft_type {kind!r}; PROMPT_TUNING, P_TUNING, PREFIX_TUNING and CPT can be read"
    )


def _read(folder: Path) -> tuple[Mapping[str, Any], Tensor]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder} has no {CONFIG}; give a PEFT folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{folder / CONFIG} is not readable JSON ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{folder / CONFIG} does not hold a JSON object")
    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(
            f"{folder} has no {WEIGHTS}; save it with safe_serialization=True (pickled .bin files are not read)"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} is not a readable safetensors file ({error})") from None
    if set(tensors) != {KEY} or tensors[KEY].ndim != 2:
        raise ArtifactError(
            f"{folder / WEIGHTS} must hold one matrix {KEY!r}; it has {', '.join(sorted(tensors)) or 'nothing'}"
        )
    return config, tensors[KEY].float()


def _input_prompt(tensor: Tensor, length: int, backbone: LanguageBackbone, task: Task, folder: Path) -> LanguageMethod:
    if tensor.shape[1] != backbone.dim:
        raise ArtifactError(
            f"{folder}: the prompt has width {tensor.shape[1]}, backbone {backbone.source!r} has {backbone.dim}"
        )
    if len(tensor) not in (length, 2 * length):
        raise ArtifactError(
            f"{folder}: {len(tensor)} rows for {length} virtual tokens (expected {length}, or twice that)"
        )
    method = PromptTuning(PromptTuningConfig(prompt_length=length, init="normal"), {"backbone": backbone}, task)
    with torch.no_grad():
        method.prompt.copy_(tensor[:length])  # PEFT never uses the rows of a second submodule
    return method


def _prefix(tensor: Tensor, length: int, backbone: LanguageBackbone, task: Task, folder: Path) -> LanguageMethod:
    sizes = backbone.sizes
    expected = (length, 2 * sizes.depth * sizes.kv_heads * sizes.head_dim)
    if tuple(tensor.shape) != expected:
        raise ArtifactError(
            f"{folder}: prefix of shape {tuple(tensor.shape)}; backbone {backbone.source!r} needs {expected} = (tokens, 2 x {sizes.depth} "
            f"layers x {sizes.kv_heads} key heads x {sizes.head_dim})"
        )
    method = Prefix(PrefixConfig(prompt_length=length, init="zero"), {"backbone": backbone}, task)
    with torch.no_grad():
        method.prompt.copy_(tensor)
    return method


def _context(
    tensor: Tensor, length: int, config: Mapping[str, Any], backbone: LanguageBackbone, task: Task, folder: Path
) -> LanguageMethod:
    ids, codes = config.get("cpt_token_ids"), config.get("cpt_tokens_type_mask")
    for name, value in (("cpt_token_ids", ids), ("cpt_tokens_type_mask", codes)):
        good = isinstance(value, list) and len(value) == length
        if not good or not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < LARGEST for v in value):  # type: ignore[union-attr]
            raise ArtifactError(f"{folder / CONFIG}: {name} must list {length} numbers")
    if tuple(tensor.shape) != (length, backbone.dim):
        raise ArtifactError(f"{folder}: context of shape {tuple(tensor.shape)}, expected ({length}, {backbone.dim})")
    settings = {
        "epsilon_input": config.get("opt_projection_epsilon"),
        "epsilon_format": config.get("opt_projection_format_epsilon"),
        "gamma": config.get("opt_loss_decay_factor"),
        "weighting": config.get("opt_weighted_loss_type"),
    }
    known = {name: value for name, value in settings.items() if value is not None}
    method = CPT(CPTConfig(**known), {"backbone": backbone}, task)
    tensors = {"ids": torch.tensor(ids), "codes": torch.tensor(codes), "delta": torch.zeros(length, backbone.dim)}
    method.restore("predict", tensors)
    with torch.no_grad():
        moved = tensor - backbone.embed(method.ids).float().cpu()
        method.delta.copy_(torch.where(method.movable[:, None].cpu(), moved, torch.zeros_like(moved)))
    return method


def save_embeddings(method: LanguageMethod, path: str | Path) -> None:
    """The prompt as plain embeddings (L, d) in one safetensors file, for engines that take prompt embeddings per request.

    Raises:
        ConfigError: the method's prompt is not a sequence of input vectors.
    """
    rows = method.prompt_rows()
    if rows is None:
        raise ConfigError(f"{type(method).__name__} has no input vectors; prompt_tuning, p_tuning and cpt have")
    save_file({KEY: rows.detach().float().cpu().contiguous()}, Path(path), metadata={"format": "pt"})
