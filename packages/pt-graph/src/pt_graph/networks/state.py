"""Weight files: read without running code, matched to a network tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pt_core.errors import UserError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a .safetensors file, or of a .pt/.pth file read with `weights_only`.

    Raises:
        UserError: missing, unreadable, or not a flat mapping of names to tensors.
    """
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path} is no readable weight file ({' '.join(str(error).split())[:120]})") from None
    except Exception as error:  # the restricted unpickler raises its own kinds
        raise UserError(f"{path} cannot be read as plain tensors ({type(error).__name__})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} does not hold a state dict (names and tensors)")
    return {str(name).removeprefix("module.").removeprefix("gnn."): value for name, value in state.items()}, {}


def assign(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of the network; more or fewer are errors."""
    own = net.state_dict()
    given = {name: value for name, value in state.items() if name in own or not name.endswith("num_batches_tracked")}
    missing = sorted(name for name in set(own) - set(given) if not name.endswith("num_batches_tracked"))
    unknown = sorted(set(given) - set(own))
    if missing or unknown:
        raise UserError(f"{path} does not fit: missing {missing[:3] or 'none'}, unknown {unknown[:3] or 'none'}")
    for name, value in given.items():
        if value.shape != own[name].shape:
            raise UserError(f"{path}: {name} has shape {tuple(value.shape)}, the network has {tuple(own[name].shape)}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} is not finite")
    net.load_state_dict({name: value.to(own[name].dtype) for name, value in given.items()}, strict=False)
