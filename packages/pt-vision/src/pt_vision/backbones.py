"""Backbones by name: `timm:NAME` (hub weights or a local file), `local:FOLDER` (hub layout on disk), `builtin:NAME`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn

    from pt_vision.adapters._common import VisionBackbone

HEADS = ("head.", "fc.", "classifier.", "head_dist.", "head.fc.")
"""Prefixes of classification heads: their weights are not needed."""
DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")


def builtin_names() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "assets").glob("*.safetensors"))


def list_backbones() -> list[tuple[str, str]]:
    """(spec, what it is) of what `load_backbone` accepts."""
    return [
        *((f"builtin:{name}", "small ViT shipped with the package, pretrained on drawn glyphs (32 px)") for name in builtin_names()),
        ("timm:NAME", "any ViT of timm with its hub weights, such as timm:vit_small_patch16_224.augreg_in21k"),
        ("timm:NAME --weights FILE", "the same with local weights: .safetensors, .pth (tensors only), or a hub folder"),
        ("local:FOLDER", "a folder in the hub's layout: config.json and model.safetensors"),
        ("file:FILE", "a file written by `pt-vision pretrain`"),
    ]


def load_backbone(spec: str, weights: str | None = None, image_size: int | None = None) -> VisionBackbone:
    """Load a frozen backbone.

    Raises:
        UserError: unknown spec or name (the nearest is named), weights not to be had, not fitting or not finite, or a network without
            tokens.
    """
    kind, _, name = spec.partition(":")
    if kind in ("builtin", "file"):
        from pt_vision import pretrain

        if kind == "builtin" and name not in builtin_names():
            raise UserError(f"no built-in backbone {name!r}{nearest(name, builtin_names())}; known: {', '.join(builtin_names())}")
        path = pretrain.builtin_path(name) if kind == "builtin" else Path(name)
        if not path.is_file():
            raise UserError(f"backbone file {path} does not exist")
        model, _ = pretrain.load_backbone(path)
        size = model.patch_embed.img_size[0]
        data = {
            "input_size": [3, size, size],
            "interpolation": "bicubic",
            "mean": list(pretrain.MEAN),
            "std": list(pretrain.STD),
            "crop_pct": 1.0,
        }
        return adapt(model, spec, data)
    if kind == "timm":
        return _timm(name, spec, weights, image_size)
    if kind == "local":
        if weights is not None:
            raise UserError("local:FOLDER brings its own weights; leave --weights out")
        config = _read_config(Path(name))
        return _timm(str(config.get("architecture")), spec, name, image_size)
    raise UserError(f"backbone {spec!r} is of no known kind; use timm:NAME, local:FOLDER, file:FILE or builtin:NAME")


def _timm(name: str, spec: str, weights: str | None, image_size: int | None) -> VisionBackbone:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    extra: dict[str, Any] = {"img_size": image_size} if image_size is not None else {}
    try:
        model = timm.create_model(name, pretrained=weights is None, num_classes=0, **extra)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"timm cannot make {name!r} ({' '.join(str(error).split())[:160]})") from None
    except Exception as error:  # whatever the hub client raises without a network
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UserError(f"the weights of {name!r} cannot be fetched ({reason}); give a local file with --weights FILE") from None
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(model)
    if weights is not None:
        path = Path(weights)
        if path.is_dir():
            data |= _read_config(path).get("pretrained_cfg", {})
            path = next((path / n for n in ("model.safetensors", "pytorch_model.bin") if (path / n).is_file()), path / "model.safetensors")
        load_weights(model, read_weights(path), str(path))
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        data["input_size"] = (3, *size)
    return adapt(model, spec, {key: _plain(data[key]) for key in DATA_KEYS if key in data})


def adapt(model: nn.Module, source: str, preprocessing: Mapping[str, Any]) -> VisionBackbone:
    """Put an upstream network behind the Backbone contract.

    Raises:
        UserError: the network has no token sequence, or is of a class without an adapter.
    """
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(model, VisionTransformer):
        from pt_vision.adapters.vit import VitBackbone

        return VitBackbone(model, source, preprocessing)
    from timm.models.swin_transformer import SwinTransformer

    if isinstance(model, SwinTransformer):
        from pt_vision.adapters.swin import SwinBackbone

        return SwinBackbone(model, source, preprocessing)
    kind = type(model).__name__
    if not hasattr(model, "blocks") and not hasattr(model, "layers"):
        raise UserError(f"{source!r} is a {kind}, which has no token sequence to insert prompts into; use a ViT or Swin")
    raise UserError(f"{source!r} is a {kind}, for which there is no adapter; supported: VisionTransformer and SwinTransformer of timm")


def read_weights(path: Path) -> dict[str, Any]:
    """Read a weight file without running code from it.

    Raises:
        UserError: missing, damaged, or a pickle that needs more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path} is not a valid safetensors file ({error})") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} cannot be read as plain tensors ({reason}); files that need code to load are refused") from None
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict of tensors")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_weights(model: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict; only a classification head may be left over.

    Raises:
        UserError: missing or unknown names, other shapes, values that are not finite.
    """
    import torch

    wanted = model.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not key.startswith(HEADS)}
    missing, unknown = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unknown:
        shown = [f"missing {key}" for key in missing[:5]] + [f"unknown {key}" for key in unknown[:5]]
        raise UserError(f"{where} does not fit {type(model).__name__}: {', '.join(shown)} ({len(missing)} missing, {len(unknown)} unknown)")
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise UserError(f"{where}: {key} has shape {tuple(value.shape)}, the model needs {tuple(wanted[key].shape)}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{where}: {key} holds NaN or infinite values")
    model.load_state_dict(state)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} has no config.json; expected the hub's layout (config.json, model.safetensors)") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return config


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
