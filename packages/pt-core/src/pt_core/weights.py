"""Weight files: those of `pretrain`, which say inside what network they are of, and anybody's, read without running code.

A file of `pretrain` is a safetensors file of fp16 weights with one metadata entry, named after the package: the card (JSON) with everything
needed to build, feed and make the network again. The same JSON lies beside it to be read.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pt_core.errors import UserError

FORMAT_VERSION = 1
"""Of the files of `pretrain`; a card's `format_version`."""
SHOWN = 5
"""Names that a message lists."""


def write_network(out: Path, package: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights in half precision with the card as metadata, and the card as JSON beside them."""
    half = {n: (t.half() if t.is_floating_point() else t).detach().cpu().contiguous() for n, t in tensors.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".json")
    # Both are complete under their names or absent: a killed run leaves no half file that looks like a backbone.
    parts = [path.with_name(f".{path.name}.part") for path in (out, beside)]
    # One entry only: safetensors writes several in random order, and the bytes would differ.
    save_file(half, parts[0], metadata={package: json.dumps(card, sort_keys=True)})
    parts[1].write_text(json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for part, path in zip(parts, (out, beside), strict=True):
        os.replace(part, path)


def read_network(path: Path, package: str, otherwise: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(card, weights in float32) of a file of `write_network`. The card is untrusted.

    Args:
        otherwise: what to do with a file that the package did not write, for the message.

    Raises:
        UserError: damaged, not written by the package, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get(package, "null"))
            tensors = {name: _widened(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); make or fetch it again") from None
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise UserError(f"{path} has no {package} metadata; {otherwise}")
    if card.get("format_version") != FORMAT_VERSION:
        found, update = card.get("format_version"), package.replace("_", "-")
        raise UserError(f"{path} has format {found}, this version reads {FORMAT_VERSION}; update {update}")
    return card, tensors


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """What is built and filled from a file's card and weights inside fits, or the file is refused.

    Raises:
        UserError: it does not.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path}: weights and metadata do not fit ({reason}); make it again") from None


def read_weights(path: Path, wrappers: Sequence[str]) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file, or of a torch file that holds nothing but plain data; floats as float32.

    Pickles are read by torch's restricted unpickler: one that asks for any other class or function is refused before that is looked up.

    Args:
        wrappers: keys under which training scripts put the weights, the likeliest first.

    Raises:
        UserError: missing, damaged, no tensors in it, or needs code to load.
    """
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file ({_line(error)}); fetch it again") from None
    else:
        content = _unwrapped(_unpickled(path), wrappers)
    found = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not found:
        keys = ", ".join(map(repr, wrappers))
        raise UserError(f"{path} holds no weights: expected names with tensors, possibly under {keys}")
    return {name: _widened(tensor) for name, tensor in found.items()}


def check_finite(module: nn.Module, where: str) -> None:
    """UserError if a weight is NaN or infinite."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinite values; fetch the weights again")


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _unpickled(path: Path) -> Any:
    try:
        # Published checkpoints often keep their training flags beside the weights in a Namespace, a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no file of plain tensors: it is damaged, or loading it would run code, which is refused; "
            "save its state dict as .safetensors where you trust it"
        ) from None
    except Exception as error:  # torch raises many kinds on damaged files: RuntimeError, EOFError, KeyError ...
        raise UserError(
            f"{path} cannot be read as a torch file ({type(error).__name__}: {_line(error)}); fetch it again"
        ) from None


def _unwrapped(content: Any, wrappers: Sequence[str]) -> Any:
    for _ in wrappers:
        if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
            break
        inner = next((content[key] for key in wrappers if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
