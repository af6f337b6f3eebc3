"""Backbones by name: `timm:NAME` (hub weights or a local file), `local:FOLDER`, `file:FILE` and `builtin:NAME`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pt_vision.adapters._common import VisionBackbone

ASSETS = Path(__file__).parent / "assets"
BUILTIN = {
    "vit_glyphs": "small ViT shipped with the package, pretrained on drawn glyphs (32 px)",
    "mit_shapes": "small MiT with a SegFormer decoder, pretrained on drawn shapes (segmentation, crops of 128 px)",
}
Size = int | tuple[int, int]
MODEL_ARGS = frozenset(
    {
        *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "depths", "num_heads", "head_dim", "mlp_ratio"),
        *(
            "qkv_bias",
            "qk_norm",
            "proj_bias",
            "init_values",
            "class_token",
            "reg_tokens",
            "pos_embed",
            "no_embed_class",
        ),
        *("pre_norm", "final_norm", "fc_norm", "global_pool", "pool_include_prefix", "norm_layer", "act_layer"),
        *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "window_size", "always_partition"),
    }
)
"""What a folder's config.json may set: it is input from elsewhere, so nothing else reaches a constructor."""
DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
LARGEST = 65536
"""Largest number accepted for a size in a config.json."""


def builtin_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


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
        ("local:FOLDER", "a folder in the hub's layout: config.json and model.safetensors"),
        ("file:FILE", "a file written by `pt-vision pretrain`"),
    ]


def load_backbone(
    spec: str,
    weights: str | Path | None = None,
    image_size: Size | None = None,
    device: torch.device | str = "cpu",
) -> VisionBackbone:
    """Load a frozen backbone in float32.

    Args:
        spec: `timm:NAME`, `local:FOLDER`, `file:FILE` or `builtin:NAME` (see `list_backbones`).
        weights: for `timm:NAME`: a local weight file or a folder in the hub's layout, instead of the hub.
        image_size: rows (and columns) in pixels other than the network's own; timm resamples the position embeddings.
        device: where to put it; `meta` builds the network without weights, to count its cost.

    Raises:
        UserError: unknown spec or name (the nearest is named), weights that cannot be had, do not fit or are not
            finite, a size the network cannot take, or a network without tokens.
    """
    kind, _, name = spec.partition(":")
    size = _size(image_size)
    if kind == "timm":
        return _timm(spec, name, None if weights is None else Path(weights), size, device)
    if kind in ("mit", "segformer"):
        from pt_vision.segmentation.mit import load_mit

        if size is not None:
            raise UserError(f"backbone {spec!r} reads images of any size; leave out image_size")
        return load_mit(kind, name, None if weights is None else Path(weights), device)
    if kind not in ("builtin", "file", "local") or not name:
        raise UserError(
            f"backbone {spec!r} is of no known kind; use timm:NAME, mit:b0, segformer:b0, local:FOLDER, file:FILE or builtin:NAME"
        )
    if weights is not None:
        raise UserError(f"backbone {spec!r} brings its own weights; leave out weights, or use timm:NAME with them")
    if kind == "local":
        return _timm(spec, _architecture(Path(name)), Path(name), size, device)
    if kind == "builtin" and name not in builtin_names():
        raise UserError(
            f"no built-in backbone {name!r}{nearest(name, builtin_names())}; known: {', '.join(builtin_names())}"
        )
    return _own(spec, ASSETS / f"{name}.safetensors" if kind == "builtin" else Path(name), size, device)


def _own(spec: str, path: Path, size: tuple[int, int] | None, device: torch.device | str) -> VisionBackbone:
    """A file written by `pt-vision pretrain`."""
    from pt_vision import pretrain
    from pt_vision.adapters import adapt
    from pt_vision.segmentation.pretrain import is_segmenter, load_segmenter
    from pt_vision.weights import check_finite

    if is_segmenter(path):
        if size is not None:
            raise UserError(f"backbone {spec!r} reads images of any size; leave out image_size")
        segmenter = load_segmenter(path, spec)
        segmenter.to(device)
        return segmenter
    model, card = pretrain.load_backbone(path)
    check_finite(model, spec)
    if size is not None and size != model.patch_embed.img_size:
        _check_patches(model, size)
        model.set_input_size(size)  # resamples the position embeddings
    prepared: Mapping[str, Any] = card.get("preprocessing") or {}
    data = {
        "input_size": [3, *model.patch_embed.img_size],
        "interpolation": str(prepared.get("interpolation", "bicubic")),
        "mean": [float(x) for x in prepared.get("mean", pretrain.MEAN)],
        "std": [float(x) for x in prepared.get("std", pretrain.STD)],
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    backbone = adapt(model, spec, data)
    backbone.to(device)
    return backbone


def _timm(
    spec: str, name: str, weights: Path | None, size: tuple[int, int] | None, device: torch.device | str
) -> VisionBackbone:
    from pt_vision.adapters import adapt
    from pt_vision.weights import check_finite, load_weights, read_weights, weight_file

    _check_name(name)
    meta = str(device) == "meta"
    file = None if weights is None else weight_file(weights)
    config = _read_config(weights) if weights is not None and (weights / "config.json").is_file() else {}
    declared = _declared_architecture(config)
    if declared and declared != name.partition(".")[0]:
        raise UserError(
            f"{weights} holds weights of {declared!r}, not of {name!r}; use timm:{declared} or local:{weights}"
        )
    arguments = _model_args(config, spec)
    if arguments:  # an absurd size must fail by name, not by memory
        _create(name, spec, {**arguments, **_overlay(config, spec)}, size, meta=True)
    hub = weights is None and not meta
    model = _create(name, spec, {**arguments, **_overlay(config, spec)}, size, meta=meta, pretrained=hub)
    if size is not None:
        _check_patches(model, size)
    notes: tuple[str, ...] = ()
    if file is not None and not meta:
        notes = load_weights(model, read_weights(file), str(file))
    elif hub:
        check_finite(model, spec)
    backbone = adapt(model, spec)
    backbone.notes = notes
    if not meta:
        backbone.to(device)
    return backbone


def _create(
    name: str,
    spec: str,
    arguments: Mapping[str, Any],
    size: tuple[int, int] | None,
    *,
    meta: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """timm's factory, with its failures as one line."""
    import timm
    import torch

    if size is not None:
        arguments = {**arguments, "img_size": size}
    try:
        with torch.device("meta") if meta else contextlib.nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
            return model
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if isinstance(error, TypeError) and size is not None and "img_size" in str(error):
            raise UserError(f"backbone {spec!r} takes no image_size; leave it out, or choose a ViT or Swin") from None
        if pretrained and not isinstance(error, (TypeError, AssertionError)):
            # Hub clients raise many kinds without a network or a file: OSError, their own, those of their HTTP library.
            raise UserError(
                f"the weights of {spec!r} cannot be fetched ({reason}); "
                "check the network, or give a local file with --weights FILE"
            ) from None
        if isinstance(error, (TypeError, AssertionError, ValueError, RuntimeError, ArithmeticError, LookupError)):
            raise UserError(f"timm cannot build {spec!r} with these settings ({reason})") from None
        raise


def _check_name(name: str) -> None:
    import timm
    from timm.models import get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(f"timm has no model {architecture!r}{nearest(architecture, timm.list_models())}")
    if tag:
        try:
            get_pretrained_cfg(name)
        except RuntimeError:
            known = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
            raise UserError(
                f"timm's {architecture!r} has no weights {tag!r}{nearest(tag, known)}; known: {', '.join(known)}"
            ) from None


def _check_patches(model: Any, size: tuple[int, int]) -> None:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and (size[0] % patch[0] or size[1] % patch[1]):
        raise UserError(f"image_size={size[0]}x{size[1]} is not a multiple of the patch size {patch[0]}x{patch[1]}")


def _size(image_size: Size | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    rows, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
    if rows < 1 or columns < 1:
        raise UserError(f"image_size={image_size} must be at least 1")
    return rows, columns


# -- config.json of a folder: untrusted ----------------------------------------------------------------------


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no config.json; expected the hub's layout (config.json, model.safetensors)"
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return config


def _declared_architecture(config: Mapping[str, Any]) -> str:
    declared = config.get("architecture")
    return declared.partition(".")[0] if isinstance(declared, str) else ""


def _architecture(folder: Path) -> str:
    declared = _declared_architecture(_read_config(folder))
    if not declared:
        raise UserError(f"{folder / 'config.json'} names no timm architecture; use timm:NAME --weights {folder}")
    return declared


def _model_args(config: Mapping[str, Any], spec: str) -> dict[str, Any]:
    given = config.get("model_args") or {}
    if not isinstance(given, dict):
        raise UserError(f"{spec}: model_args in config.json is not a JSON object")
    arguments = {key: value for key, value in given.items() if key != "num_classes"}
    unknown = sorted(set(arguments) - MODEL_ARGS)
    if unknown:
        raise UserError(
            f"{spec}: config.json sets {unknown[0]!r}{nearest(unknown[0], MODEL_ARGS)}, no accepted model argument; "
            f"accepted: {', '.join(sorted(MODEL_ARGS))}"
        )
    for key, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        limit = 512 if key in ("depth", "depths") else LARGEST
        for item in values:
            plain = (
                item is None or isinstance(item, (bool, str)) or (isinstance(item, (int, float)) and abs(item) <= limit)
            )
            if not plain or len(values) > 16:
                raise UserError(f"{spec}: config.json sets {key}={str(value)[:60]}, which is not a plausible size")
    return arguments


def _overlay(config: Mapping[str, Any], spec: str) -> dict[str, Any]:
    """The data configuration of a folder, laid over timm's own for that architecture."""
    given = config.get("pretrained_cfg") or {}
    if not isinstance(given, dict):
        raise UserError(f"{spec}: pretrained_cfg in config.json is not a JSON object")
    data: dict[str, Any] = {key: given[key] for key in DATA_KEYS if given.get(key) is not None}
    for key, value in data.items():
        if key in ("interpolation", "crop_mode"):
            good = isinstance(value, str)
        elif key == "crop_pct":
            good = _number(value) and 0 < value <= 4
        else:
            good = isinstance(value, list) and 1 <= len(value) <= 4 and all(map(_number, value))
        if key == "input_size":
            good = good and len(value) == 3 and all(isinstance(n, int) and 0 < n <= LARGEST for n in value)
        if key == "std":
            good = good and all(x > 0 for x in value)
        if not good:
            raise UserError(f"{spec}: config.json sets {key}={str(value)[:60]}, which cannot be used")
        data[key] = tuple(value) if isinstance(value, list) else value
    return {"pretrained_cfg_overlay": data} if data else {}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6
