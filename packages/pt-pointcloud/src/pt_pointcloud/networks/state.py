"""Weight files: read without running code, finite or refused."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("base_model", "model_state_dict", "state_dict", "model")
"""Keys under which the training scripts put the weights."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a .safetensors or torch file; floats as float32."""
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file ({_line(error)}); fetch it again") from None
    else:
        content = _unpickle(path)
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    found = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not found:
        raise UserError(
            f"{path} holds no weights: expected names with tensors, possibly under {', '.join(map(repr, WRAPPERS))}"
        )
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no file of plain tensors: it is damaged, or loading it would run code, which is refused; save its state dict as "
            ".safetensors where you trust it"
        ) from None
    except Exception as error:  # torch raises many kinds on damaged files
        raise UserError(
            f"{path} cannot be read as a torch file ({type(error).__name__}: {_line(error)}); fetch it again"
        ) from None


def check_finite(module: nn.Module, where: str) -> None:
    """UserError if a weight is NaN or infinite."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinite values; fetch the weights again")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
