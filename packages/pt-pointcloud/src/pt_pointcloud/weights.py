"""Published Point-MAE and Point-BERT checkpoints: read without running code, complete or refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from torch import Tensor, nn

from pt_pointcloud.backbone import CLASS_TENSORS
from pt_pointcloud.transformer import PointConfig, PointTransformer

WRAPPERS = ("base_model", "model_state_dict", "state_dict", "model")
"""Keys under which the training scripts put the weights."""
ENCODERS = ("MAE_encoder.", "transformer_q.", "base_model.")
"""Prefixes of the encoder: Point-MAE pre-training, Point-BERT pre-training, wrapped fine-tuned models."""
BESIDE = (
    *(
        "MAE_decoder.",
        "mask_token",
        "decoder_pos_embed.",
        "increase_dim.",
        "cls_head",
        "lm_head.",
        "transformer_k.",
        "queue",
        "dvae.",
    ),
    *("prompt", "dgcnn", "label_conv", "propagation", "convs", "bns", "blocks.cls."),
)
"""Parts of those files that are no encoder: decoders, heads, momentum copies, prompts."""
SHOWN = 5


def published_config(kind: str, grouping: Mapping[str, Any]) -> PointConfig:
    """The published sizes; Point-BERT maps a 256-wide patch encoder to 384."""
    return PointConfig(**grouping, encoder_dim=256 if kind == "pointbert" else None)


def load_published(kind: str, config: PointConfig, path: Path) -> tuple[PointTransformer, tuple[str, ...]]:
    """The network of a checkpoint, and remarks for the user.

    Point-MAE checkpoints have no class token (one in a fine-tuned file is read); Point-BERT's have one and a `reduce_dim` layer.

    Raises:
        UserError: missing, damaged, needs code to load, lacks or adds tensors, other shapes, NaN or infinite values.
    """
    state = encoder_state(read_tensors(path))
    net = PointTransformer(config)
    wanted = net.state_dict()
    has_class = all(name in state for name in CLASS_TENSORS)
    if kind == "pointbert" and not has_class:
        raise UserError(f"{path} has no class token: it is no Point-BERT checkpoint; try pointmae:NAME")
    if not has_class:
        state = {**state, **{name: wanted[name] for name in CLASS_TENSORS}}
    counters = {name: wanted[name] for name in wanted if name.endswith("num_batches_tracked") and name not in state}
    state |= counters  # safetensors conversions often leave them out
    missing, unknown = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    left_out = [name for name in unknown if name.startswith(BESIDE)]
    unknown = [name for name in unknown if name not in left_out]
    if missing or unknown:
        lists = [f"{word} {_some(names)}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise UserError(f"{path} does not fit {kind}: it {' and '.join(lists)}")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise UserError(f"{path}: {name} has shape {tuple(state[name].shape)}, {kind} needs {tuple(tensor.shape)}")
    net.load_state_dict({name: state[name] for name in wanted}, strict=True)
    net.class_token_trained = has_class
    return net, (f"left out of {path}: {_some(left_out)}",) if left_out else ()


def encoder_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in `PointTransformer`: `module.` and the encoder's prefix removed; where a prefix occurs, only what has it is kept."""
    bare = {name.replace("module.", ""): tensor for name, tensor in tensors.items()}
    for prefix in ENCODERS:
        inside = {name[len(prefix) :]: tensor for name, tensor in bare.items() if name.startswith(prefix)}
        if inside:
            return inside
    return bare


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a .safetensors or torch file; floats as float32."""
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

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


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
