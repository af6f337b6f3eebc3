"""Exchange of prompts: PEFT folders in both directions, published `.npy` prompts in, and prompts as embeddings out.

A PEFT folder is `adapter_config.json` and `adapter_model.safetensors` with the tensor `prompt_embeddings`:

=================  ===================  =====================================================================================
peft_type          shape                here
=================  ===================  =====================================================================================
PROMPT_TUNING      (s L, d)             `prompt_tuning`; s is num_transformer_submodules, and only the first L rows are used
P_TUNING           (s L, d)             what the encoder produced: written by `p_tuning`, read as `prompt_tuning` (the same
                                        function; the encoder is not in the folder)
PREFIX_TUNING      (L, 2 N d_kv)        `prefix`; row i is [key of layer 0, value of layer 0, key of layer 1, ...]; for
                                        encoder-decoders PEFT reads its rows in another order, see `decoder_slots`
CPT                (L, d)               `cpt`; the configuration has the context's ids and type codes
=================  ===================  =====================================================================================

Of a foreign configuration only numbers, lists of numbers and the type are read. Names in it (base model, tokenizer and its options,
trust_remote_code ...) reach no loader: the caller says which backbone it is. Pickled weights (`.bin`) are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pt_core import Batch, Insert, Task
from pt_core.errors import ArtifactError, UserError
from pt_core.sealed import check_finite, read_json, read_tensors, write_sealed
from torch import Tensor

from pt_language.adapters import LanguageBackbone
from pt_language.context import check_codes
from pt_language.method import LanguageMethod
from pt_language.methods.cpt import CPT, CPTConfig
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix, PrefixConfig
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig

CONFIG, WEIGHTS, KEY = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"
MAX_LENGTH = 2**20
TASK_TYPES = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}
Kind = Literal["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"]
CONTEXT: tuple[str, ...] = ("cpt_token_ids", "cpt_tokens_type_mask")
KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")


@dataclass(frozen=True)
class Foreign:
    """A prompt from elsewhere, checked by itself.

    Attributes:
        kind: peft_type.
        prompt: float32 (L, d), or (L, 2 N d_kv) for PREFIX_TUNING.
        numbers: the numbers of the configuration that were read.
        lists: its lists of numbers (CPT's ids and type codes).
        notes: what the user should know.
    """

    kind: Kind
    prompt: Tensor
    numbers: Mapping[str, float] = field(default_factory=dict)
    lists: Mapping[str, list[int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# ---- out -----------------------------------------------------------------------------------------------------------------------


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
            # PEFT splits rows by these two alone: they describe keys and values, not queries.
            config |= {"peft_type": "PREFIX_TUNING", "prefix_projection": False, "encoder_hidden_size": backbone.dim}
            config |= {"token_dim": sizes.kv_heads * sizes.head_dim, "num_attention_heads": sizes.kv_heads}
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


def decoder_slots(layers: int, depth: int) -> list[int]:
    """Slots of PEFT's rows that the decoder's blocks read as key and value, in the order of our rows.

    PEFT views a row as 2 `layers` slots, repeats them, and gives decoder block i four of them: 4 i and 4 i + 1 are its key and value, the
    other two are meant for cross-attention and dropped.
    """
    return [(4 * block + part) % (2 * layers) for block in range(depth) for part in (0, 1)]


def virtual_tokens(method: LanguageMethod) -> Tensor:
    """(L, d) float32: the prompt as input vectors, where it is one that no input changes.

    Raises:
        UserError: the method gives keys and values, or prompts that depend on the text.
    """
    with torch.no_grad():
        if isinstance(method, CPT):
            return method.prompt().detach().float()
        context = getattr(method, "context", None)
        if isinstance(context, Tensor):  # in-context examples
            return method.backbone.embed(context.to(method.backbone.device)).detach().float()
        empty = Batch({}, None, torch.zeros(0, dtype=torch.long), [])
        edit = dict(method.edits(empty)).get("input") if method.static and method.weights is None else None
        if isinstance(edit, Insert) and isinstance(edit.tokens, Tensor):
            return edit.tokens.detach().float()
    raise UserError(
        f"{type(method).__name__} is no list of input vectors (it changes layers, or depends on the text); prompt_tuning, p_tuning, "
        "cpt and icl can be exported as embeddings"
    )


def export_embeddings(method: LanguageMethod, out: Path) -> list[str]:
    """Write the prompt as one safetensors file for engines that take prompt embeddings per request: `prompt_embeds` (L, d), in the
    backbone's own dtype. A request's embeddings are these rows and then the rows of the embedded text (`request_embeddings`).

    Raises:
        UserError: the prompt is no list of input vectors, `out` exists or is not a .safetensors file.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} must end in .safetensors for --format embeddings")
    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    rows = virtual_tokens(method).to(method.backbone.dtype).cpu().contiguous()
    check_finite({"prompt_embeds": rows}, "the method")
    from safetensors.torch import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")  # complete under its name, or absent
    try:
        save_file({"prompt_embeds": rows}, part, {"backbone": method.backbone.source, "method": type(method).__name__})
        part.replace(out)
    except OSError as error:
        raise ArtifactError(f"{out} cannot be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return ["send the rows of prompt_embeds followed by the embedded text (pt_language.interop.request_embeddings)"]


def request_embeddings(method: LanguageMethod, text: str) -> Tensor:
    """(L + T, d) in the backbone's dtype: what an engine gets for one text, tokenised without special tokens as while tuning."""
    from pt_language.templates import Encoder

    ids = torch.tensor(Encoder(method.backbone.tokenizer).encode(text, 0).ids, dtype=torch.long)
    with torch.no_grad():
        own = method.backbone.embed(ids.to(method.backbone.device))
        return torch.cat([virtual_tokens(method).to(own), own])


# ---- in ------------------------------------------------------------------------------------------------------------------------


def read_foreign(path: Path) -> Foreign:
    """Read a PEFT folder, or a published prompt as an array (`.npy`, float, (L, d)).

    Raises:
        ArtifactError: nothing readable there, an unsupported type, or a tensor that does not fit the configuration.
    """
    if path.suffix == ".npy":
        return _read_array(path)
    if not (path / CONFIG).is_file():
        raise ArtifactError(f"{path} has no {CONFIG}; give a PEFT folder, or a .npy file with a prompt (L, d)")
    config = read_json(path / CONFIG)
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise ArtifactError(f"{path / CONFIG} has peft_type {str(kind)[:40]!r}; readable are {', '.join(KINDS)}")
    if config.get("modules_to_save"):
        raise ArtifactError(f"{path} also has trained modules (modules_to_save); only the prompt itself can be read")
    if not (path / WEIGHTS).is_file():
        pickled = (path / "adapter_model.bin").is_file()
        old = " (adapter_model.bin is a pickle and is not opened: save it again as safetensors)" if pickled else ""
        raise ArtifactError(f"{path} has no {WEIGHTS}{old}")
    tensors = read_tensors(path / WEIGHTS)
    prompt = tensors.get(KEY)
    if set(tensors) != {KEY} or prompt is None or prompt.ndim != 2 or not prompt.is_floating_point():
        raise ArtifactError(
            f"{path / WEIGHTS} must hold one matrix {KEY!r}; it holds {', '.join(sorted(tensors)[:4]) or 'nothing'}"
        )
    check_finite(tensors, str(path / WEIGHTS))
    length = _count(config, "num_virtual_tokens", path)
    notes: list[str] = []
    parts = config.get("num_transformer_submodules")
    parts = (2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1) if parts is None else parts
    if kind != "PREFIX_TUNING":
        if parts not in (1, 2) or len(prompt) != length * parts:
            raise ArtifactError(f"{path}: {KEY} has {len(prompt)} rows, the configuration says {parts} x {length}")
        if parts == 2:
            notes.append(f"the last {length} of {2 * length} rows are left out: PEFT never uses them")
    elif len(prompt) != length:
        raise ArtifactError(f"{path}: {KEY} has {len(prompt)} rows, the configuration says {length}")
    if kind == "P_TUNING":
        notes.append(
            "the folder has what the encoder produced, not the encoder: it is read as prompt_tuning, the same function"
        )
    names = ("num_layers", "num_attention_heads", "token_dim", "opt_loss_decay_factor", "opt_projection_epsilon")
    numbers = {n: config[n] for n in (*names, "opt_projection_format_epsilon") if _is_number(config.get(n))}
    numbers |= {"num_transformer_submodules": parts} if _is_number(parts) else {}
    lists = {n: _ints(config[n], n, path) for n in CONTEXT if kind == "CPT" and n in config}
    return Foreign(kind, prompt[:length].float(), numbers, lists, tuple(notes))


def _read_array(path: Path) -> Foreign:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as an array: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        shape = getattr(array, "shape", None)
        raise ArtifactError(f"{path} must hold one prompt of floats (L, d); its array has shape {shape}")
    prompt = torch.from_numpy(array.astype("float32"))
    check_finite({KEY: prompt}, str(path))
    return Foreign("PROMPT_TUNING", prompt)


def import_peft(path: Path, backbone: LanguageBackbone, task: Task) -> tuple[str, LanguageMethod]:
    """(method id, tuned method) behind a PEFT folder or a `.npy` prompt; it predicts, and can be tuned further.

    Args:
        backbone: the model that the prompt was tuned on. The folder does not decide what is loaded.
        task: what the prompt is used for; PEFT folders do not say.

    Raises:
        ArtifactError: unreadable, or of other sizes than the backbone; names both.
    """
    return build(read_foreign(path), backbone, task)


def build(foreign: Foreign, backbone: LanguageBackbone, task: Task) -> tuple[str, LanguageMethod]:
    """(method id, tuned method) of a prompt that was read."""
    prompt, roles = foreign.prompt, {"backbone": backbone}
    length, width = prompt.shape
    if foreign.kind == "PREFIX_TUNING":
        prompt = _check_prefix(foreign, backbone)
        prefix = Prefix(PrefixConfig(prompt_length=length, init="zero"), roles, task)
        _fill(prefix.prompt, prompt)
        return "prefix", prefix
    if width != backbone.dim:
        raise ArtifactError(
            f"the prompt has width {width}, backbone {backbone.source!r} has {backbone.dim}; "
            "give the model it was tuned on"
        )
    if foreign.kind == "CPT":
        return "cpt", _build_cpt(foreign, backbone, task)
    tuned = PromptTuning(PromptTuningConfig(prompt_length=length, init="normal"), roles, task)
    _fill(tuned.prompt, prompt)
    return "prompt_tuning", tuned


def _check_prefix(foreign: Foreign, backbone: LanguageBackbone) -> Tensor:
    """The prefix (L, 2 N d_kv) in our order, for this backbone."""
    sizes, width, parts = backbone.sizes, foreign.prompt.shape[1], foreign.numbers.get("num_transformer_submodules", 1)
    paired = backbone.kind == "encoder-decoder"
    if parts != (2 if paired else 1):
        raise ArtifactError(
            f"the prefix is for {'an encoder-decoder' if parts == 2 else 'a model of one stack'} (num_transformer_submodules {parts}); "
            f"{backbone.source!r} is of kind {backbone.kind}"
        )
    per_layer = 2 * sizes.kv_heads * sizes.head_dim
    layers = width // per_layer if paired and width % per_layer == 0 else sizes.depth
    expected = {
        "num_layers": layers,
        "num_attention_heads": sizes.kv_heads,
        "token_dim": sizes.kv_heads * sizes.head_dim,
    }
    other = [name for name, size in expected.items() if foreign.numbers.get(name, size) != size]
    if other or width != layers * per_layer or layers < sizes.depth:
        found = ", ".join(f"{name} {foreign.numbers[name]}" for name in other) or f"rows of {width}"
        raise ArtifactError(
            f"the prefix has {found}; backbone {backbone.source!r} needs rows of 2 x {sizes.depth} layers x {sizes.kv_heads} "
            f"key/value heads x width {sizes.head_dim} = {sizes.depth * per_layer}" + (" or more" if paired else "")
        )
    if not paired:
        return foreign.prompt
    slots = foreign.prompt.view(len(foreign.prompt), 2 * layers, -1)
    return slots[:, decoder_slots(layers, sizes.depth)].flatten(1)


def _build_cpt(foreign: Foreign, backbone: LanguageBackbone, task: Task) -> CPT:
    """E0 from the ids in the configuration; delta is what the stored prompt has beyond it."""
    ids, codes = (
        torch.tensor(foreign.lists.get(name, []), dtype=torch.long)
        for name in ("cpt_token_ids", "cpt_tokens_type_mask")
    )
    try:
        check_codes(ids, codes)
    except ValueError as error:
        raise ArtifactError(f"the CPT context is not valid: {error}") from None
    if len(ids) != len(foreign.prompt) or int(ids.min()) < 0 or int(ids.max()) >= len(backbone.embeddings):
        raise ArtifactError(
            f"the CPT context has {len(ids)} token ids for {len(foreign.prompt)} rows, or ids outside the vocabulary"
        )
    # The stored sum was computed in the backbone's dtype; a radius is a positive number or what the paper's code has by default.
    radius = {
        n: max(0.0, foreign.numbers.get(f"opt_projection_{o}epsilon", 0.1))
        for n, o in (("input", ""), ("format", "format_"))
    }
    gamma = min(max(foreign.numbers.get("opt_loss_decay_factor", 1.0), 1e-6), 1.0)
    config = CPTConfig(epsilon_input=radius["input"], epsilon_format=radius["format"], gamma=gamma)
    method = CPT(config, {"backbone": backbone}, task)
    method.set_context(ids, codes)
    with torch.no_grad():
        delta = foreign.prompt.to(method.delta.device) - backbone.embed(method.ids.to(backbone.device)).float().to(
            method.delta.device
        )
        fixed = delta[~method.movable.to(delta.device)]
        scale = float(backbone.embeddings.abs().max())
        if fixed.numel() and float(fixed.abs().max()) > 1e-3 * scale:
            raise ArtifactError(
                "the CPT context's label rows differ from the backbone's embeddings: it was tuned on another model"
            )
        delta[~method.movable.to(delta.device)] = 0
        method.delta.copy_(delta)
    return method


def _fill(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)


def _count(config: Mapping[str, Any], name: str, path: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_LENGTH:
        raise ArtifactError(f"{path / CONFIG} has no valid {name} (found {str(value)[:40]})")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12


def _ints(values: Any, name: str, path: Path) -> list[int]:
    if not isinstance(values, list) or len(values) > MAX_LENGTH:
        raise ArtifactError(f"{path / CONFIG}: {name} is not a list of numbers")
    if not all(isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**40 for v in values):
        raise ArtifactError(f"{path / CONFIG}: {name} is not a list of whole numbers")
    return list(values)
