"""Weight files from anywhere into a timm model: read without running code, complete or refused."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from torch import Tensor, nn

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "net")
"""Keys under which training scripts put the weights."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Left by DistributedDataParallel, torch.compile and wrapper modules."""
HEADS = ("head.", "head_dist.", "fc.", "classifier.", "head.fc.")
"""Classification heads: not part of a backbone. `fc_norm` is."""
PICKLES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
SHOWN = 5


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file, or of a torch file that holds nothing but plain data.

    The state dict is found under its usual wrappers, and prefixes of wrapper modules are cut off. Pickles are read by
    torch's restricted unpickler: one that asks for any other class or function is refused before that is looked up.

    Raises:
        UserError: missing, damaged, of unknown type, no tensors in it, or needs code to load.
    """
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _strip(load_file(path))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file ({_line(error)}); fetch it again") from None
    if path.suffix not in PICKLES:
        raise UserError(f"{path} is of no known type; give a .safetensors, {', '.join(PICKLES)} file, or a hub folder")
    return _strip(_tensors(path, _unpickle(path)))


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
        lists = [f"{word} {_some(names)}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names]
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
    return (f"left out head weights of {where}: {_some(heads)}",) if heads else ()


def check_finite(module: nn.Module, where: str) -> None:
    """UserError if a weight is NaN or infinite."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinite values; fetch the weights again")


def _unpickle(path: Path) -> Any:
    import argparse
    import pickle

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


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    for _ in WRAPPERS:
        inner = next(
            (
                content[key]
                for key in WRAPPERS
                if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
            ),
            None,
        )
        if inner is None or any(isinstance(value, Tensor) for value in content.values()):
            break
        content = inner
    found = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not found:
        raise UserError(
            f"{path} holds no weights: expected names with tensors, possibly under {', '.join(map(repr, WRAPPERS))}"
        )
    return found


def _strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


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


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
