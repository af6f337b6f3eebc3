"""Reading prompts from elsewhere, before it is known which backbone they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import ArtifactError
from pt_core.sealed import check_finite, read_json, read_tensors
from torch import Tensor

from pt_language.interop.peft_folder import CONFIG, CONTEXT, KEY, KINDS, MAX_LENGTH, WEIGHTS, Kind


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
