"""Backbones by name: `timm:NAME` and `open_clip:NAME` (hub weights or a local file), `local:FOLDER`, `file:FILE` and `builtin:NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pt_core.errors import UserError

from pt_vision.networks.clip.names import is_clip
from pt_vision.networks.names import BUILTIN, MIT, builtin_path, check_spec

if TYPE_CHECKING:
    import torch
    from pt_core.dual import DualBackbone

    from pt_vision.adapters.base import VisionBackbone

Size = int | tuple[int, int]


def list_backbones(pattern: str | None = None) -> list[tuple[str, str]]:
    """(spec, what it is) of what `load_backbone` accepts.

    Args:
        pattern: lists instead the timm models with an adapter whose names match (`*` and `?` as in file names);
            imports timm.
    """
    if pattern is not None:
        import timm

        from pt_vision.adapters import MODULES

        found = {name for module in MODULES for name in timm.list_models(pattern, module=module)}
        return [
            (f"timm:{name}", "hub weights" if timm.is_model_pretrained(name) else "no published weights")
            for name in sorted(found)
        ]
    return [
        *((f"builtin:{name}", text) for name, text in BUILTIN.items()),
        (
            "timm:NAME",
            "any ViT, Eva or Swin of timm with its hub weights, such as timm:vit_small_patch16_224.augreg_in21k (ResNet and "
            "ConvNeXt for linear, full and vpt_pixel)",
        ),
        ("timm:NAME --weights FILE", "the same with local weights: .safetensors, .pth (tensors only), or a hub folder"),
        ("mit:b0 ... mit:b5 --weights FILE", "MiT with a published state dict (segmentation)"),
        (
            "segformer:b0 ... segformer:b5 --weights FILE",
            "MiT with SegFormer's decoder, published state dict (segmentation)",
        ),
        (
            "open_clip:NAME@TAG",
            "an image and a text tower of open_clip with hub weights, such as open_clip:ViT-B-16-quickgelu@openai (extra `clip`)",
        ),
        (
            "open_clip:NAME --weights FILE",
            "the same with local weights: .safetensors, or .pt (tensors only)",
        ),
        (
            "local:FOLDER (two towers)",
            "a folder in open_clip's hub layout: open_clip_config.json and open_clip_model.safetensors",
        ),
        ("local:FOLDER", "a folder in the hub's layout: config.json and model.safetensors"),
        ("file:FILE", "a file written by `pt-vision pretrain`"),
    ]


def problem(spec: str) -> str | None:
    """Why no backbone has this name, as far as the name and the file system tell; no weights are read."""
    try:
        check_spec(spec)
    except UserError as error:
        return str(error)
    return None


def load_backbone(
    spec: str,
    weights: str | Path | None = None,
    image_size: Size | None = None,
    device: torch.device | str = "cpu",
) -> VisionBackbone | DualBackbone:
    """Load a frozen backbone in float32; `open_clip:...` and folders of open_clip give two towers, `image` and `text`.

    Args:
        spec: `timm:NAME`, `local:FOLDER`, `file:FILE` or `builtin:NAME` (see `list_backbones`).
        weights: for `timm:NAME`: a local weight file or a folder in the hub's layout, instead of the hub.
        image_size: rows (and columns) in pixels other than the network's own; timm resamples the position embeddings.
        device: where to put it; `meta` builds the network without weights, to count its cost.

    Raises:
        UserError: unknown spec or name (the nearest is named), weights that cannot be had, do not fit or are not
            finite, a size the network cannot take, or a network without tokens.
    """
    check_spec(spec)  # before torch is imported
    from pt_vision.adapters import load

    kind, _, name = spec.partition(":")
    size, file = _size(image_size), None if weights is None else Path(weights)
    if is_clip(spec):
        from pt_vision.adapters.clip.load import open_clip_backbone

        if size is not None:
            raise UserError(f"backbone {spec!r} takes pictures of its own size; leave out image_size")
        return open_clip_backbone(spec, file, device)
    if kind == "timm":
        return load.timm_backbone(spec, name, file, size, device)
    if kind in MIT:
        return load.published_mit(spec, file, size, device)
    if file is not None:
        raise UserError(f"backbone {spec!r} brings its own weights; leave out weights, or use timm:NAME with them")
    if kind == "local":
        return load.folder(spec, Path(name), size, device)
    return load.own_file(spec, builtin_path(name) if kind == "builtin" else Path(name), size, device)


def _size(image_size: Size | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    rows, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
    if rows < 1 or columns < 1:
        raise UserError(f"image_size={image_size} must be at least 1")
    return rows, columns
