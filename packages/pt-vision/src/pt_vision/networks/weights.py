"""Weight files from anywhere into a timm model: read without running code, complete or refused."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pt_core import weights
from pt_core.errors import UserError
from pt_core.weights import listed
from torch import Tensor, nn

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "net")
"""Keys under which training scripts put the weights."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Left by DistributedDataParallel, torch.compile and wrapper modules."""
HEADS = ("head.", "head_dist.", "fc.", "classifier.", "head.fc.")
"""Classification heads: not part of a backbone. `fc_norm` is."""
PICKLES = (".pth", ".pt", ".bin", ".tar", ".ckpt")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a file, as `pt_core.weights.read_weights` reads it; prefixes of wrapper modules are cut off.

    Raises:
        UserError: missing, damaged, of unknown type, no tensors in it, or needs code to load.
    """
    if path.is_file() and path.suffix not in (".safetensors", *PICKLES):
        raise UserError(f"{path} is of no known type; give a .safetensors, {', '.join(PICKLES)} file, or a hub folder")
    state = weights.read_weights(path, WRAPPERS)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return state


def load_weights(module: nn.Module, state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Copy weights into `module`, through timm's checkpoint filter of that architecture where names or shapes need it.

    The filter renames foreign checkpoints (official DINOv2, OpenAI CLIP, Swin ...) and resamples position embeddings.

    Returns:
        Remarks for the user: which head weights were left out.

    Raises:
        UserError: missing or unknown names (up to five of each are listed), another shape (both are shown), NaN or
            infinite values.
    """
    wanted = module.state_dict()
    heads = sorted(name for name in state if name not in wanted and name.startswith(_heads(module)))
    # Foreign checkpoints keep their heads until the filter has seen them: it may tell formats apart by them.
    found = {name: tensor for name, tensor in state.items() if name not in heads}
    if set(found) != set(wanted) or any(found[name].shape != wanted[name].shape for name in wanted):
        filtered = _filter(module, dict(state))
        heads = sorted({*heads, *(name for name in filtered if name not in wanted and name.startswith(_heads(module)))})
        found = {name: tensor for name, tensor in filtered.items() if name not in heads}
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        lists = [f"{word} {listed(names)}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise UserError(f"{where} does not fit {type(module).__name__}: it {' and '.join(lists)}; check the model name")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, the model needs {tuple(wanted[name].shape)}; "
                "check the model name and the image size"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinite values; fetch the file again")
    module.load_state_dict(found, strict=True)
    return (f"left out head weights of {where}: {listed(heads)}",) if heads else ()


def _heads(module: nn.Module) -> tuple[str, ...]:
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    named = config.get("classifier") or ()
    return (*HEADS, *(f"{name}." for name in ([named] if isinstance(named, str) else named)))


def _filter(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    run = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if run is None:
        return state
    # DeiT-III keeps its layer scale under another name; timm renames it where asked.
    extra = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(run).parameters else {}
    try:
        result: dict[str, Tensor] = run(state, module, **extra)
    except (KeyError, ValueError, IndexError, RuntimeError, AttributeError, AssertionError, TypeError):
        return state  # not a checkpoint of this architecture: the comparison that follows names the difference
    return result
