"""Published Point-MAE and Point-BERT checkpoints: complete or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pt_core.errors import UserError
from pt_core.weights import listed, read_weights
from torch import Tensor

from pt_pointcloud.networks.transformer import CLASS_TENSORS, PointConfig, PointTransformer

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
WRAPPERS = ("base_model", "model_state_dict", "state_dict", "model")
"""Keys under which the training scripts put the weights."""


def published_config(kind: str, grouping: Mapping[str, Any]) -> PointConfig:
    """The published sizes; Point-BERT maps a 256-wide patch encoder to 384."""
    return PointConfig(**grouping, encoder_dim=256 if kind == "pointbert" else None)


def load_published(kind: str, config: PointConfig, path: Path) -> tuple[PointTransformer, tuple[str, ...]]:
    """The network of a checkpoint, and remarks for the user.

    Point-MAE checkpoints have no class token (one in a fine-tuned file is read); Point-BERT's have one and a `reduce_dim` layer.

    Raises:
        UserError: missing, damaged, needs code to load, lacks or adds tensors, other shapes, NaN or infinite values.
    """
    state = encoder_state(read_weights(path, WRAPPERS))
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
        lists = [f"{word} {listed(names)}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise UserError(f"{path} does not fit {kind}: it {' and '.join(lists)}")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise UserError(f"{path}: {name} has shape {tuple(state[name].shape)}, {kind} needs {tuple(tensor.shape)}")
    net.load_state_dict({name: state[name] for name in wanted}, strict=True)
    net.class_token_trained = has_class
    return net, (f"left out of {path}: {listed(left_out)}",) if left_out else ()


def encoder_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in `PointTransformer`: `module.` and the encoder's prefix removed; where a prefix occurs, only what has it is kept."""
    bare = {name.replace("module.", ""): tensor for name, tensor in tensors.items()}
    for prefix in ENCODERS:
        inside = {name[len(prefix) :]: tensor for name, tensor in bare.items() if name.startswith(prefix)}
        if inside:
            return inside
    return bare
