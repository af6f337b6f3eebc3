"""timm's models by name: does it exist, and its factory with failures as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from pt_core.errors import UserError, nearest
from timm.models import get_pretrained_cfg
from torch import nn


def check_model(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        UserError: an unknown architecture, or unknown weights of it; names the nearest.
    """
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


def check_patches(model: Any, size: tuple[int, int]) -> None:
    """Refuse an image size that the patches do not divide."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and (size[0] % patch[0] or size[1] % patch[1]):
        raise UserError(f"image_size={size[0]}x{size[1]} is not a multiple of the patch size {patch[0]}x{patch[1]}")


def create(
    name: str,
    spec: str,
    arguments: Mapping[str, Any],
    size: tuple[int, int] | None,
    *,
    meta: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """timm's factory without a classifier.

    Raises:
        UserError: settings that the network does not take, or weights that cannot be fetched.
    """
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
