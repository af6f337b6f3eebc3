"""Adapters from timm models to the Backbone contract. Importing this package imports nothing heavy; `adapt` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from pt_vision.adapters.base import VisionBackbone

SUPPORTED = (
    "VisionTransformer (ViT, DeiT, CLIP, SigLIP, DINOv2, MAE), Eva (EVA-02, DINOv3), SwinTransformer (v1), "
    "PyramidVisionTransformerV2, ResNet, ConvNeXt"
)
MODULES = (
    "vision_transformer",
    "vision_transformer_hybrid",
    "deit",
    "eva",
    "swin_transformer",
    "pvt_v2",
    "resnet",
    "convnext",
)
"""timm's model files whose networks mostly have an adapter."""


def adapt(module: nn.Module, source: str, preprocessing: Mapping[str, Any] | None = None) -> VisionBackbone:
    """Put a timm model behind the Backbone contract. It is frozen in place.

    Args:
        module: the network, its classifier removed (`num_classes=0`).
        source: where it came from, for messages and records.
        preprocessing: how inputs are prepared; None asks timm.

    Raises:
        UserError: a class without an adapter.
    """
    from timm.models.convnext import ConvNeXt
    from timm.models.eva import Eva
    from timm.models.pvt_v2 import PyramidVisionTransformerV2
    from timm.models.resnet import ResNet
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    from pt_vision.adapters.conv import ConvBackbone
    from pt_vision.adapters.eva import EvaBackbone
    from pt_vision.adapters.mit import MitBackbone
    from pt_vision.adapters.swin import SwinBackbone
    from pt_vision.adapters.vit import VitBackbone
    from pt_vision.networks.mit import MitNetwork

    prepared = describe_preprocessing(module) if preprocessing is None else preprocessing
    if isinstance(module, PyramidVisionTransformerV2):
        return MitBackbone(MitNetwork(module), source, prepared)
    families: tuple[tuple[type, type[VisionBackbone]], ...] = (
        (VisionTransformer, VitBackbone),
        (Eva, EvaBackbone),
        (SwinTransformer, SwinBackbone),
        (ResNet, ConvBackbone),
        (ConvNeXt, ConvBackbone),
    )
    for family, adapter in families:
        if isinstance(module, family):
            return adapter(module, source, prepared)
    name = type(module).__name__
    raise UserError(f"backbone {source!r} is a {name}, for which there is no adapter; choose one of {SUPPORTED}")


def describe_preprocessing(module: nn.Module) -> dict[str, Any]:
    """timm's data configuration of a model, as JSON-able values, with the size the network really takes."""
    from timm import data

    resolve: Any = data.resolve_model_data_config  # type: ignore[attr-defined]
    config: Mapping[str, Any] = resolve(module)
    embed: Any = getattr(module, "patch_embed", None)
    size = list(config["input_size"])
    if getattr(embed, "img_size", None) is not None:
        size = [getattr(embed.proj, "in_channels", size[0]), *embed.img_size]
    return {
        "input_size": [int(n) for n in size],
        "mean": [float(x) for x in config["mean"]],
        "std": [float(x) for x in config["std"]],
        "interpolation": str(config["interpolation"]),
        "crop_pct": float(config["crop_pct"]),
        "crop_mode": str(config["crop_mode"]),
    }
