"""Networks of two towers behind the contract."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from pt_core.dual import DualBackbone
from pt_core.errors import UserError
from torch import nn

from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.clip.encoder import EncoderText
from pt_vision.adapters.clip.image import ImageTower, TimmImage, ViTImage, WholeImage
from pt_vision.adapters.clip.text import ClipText, JoinedText
from pt_vision.adapters.clip.words import WordsTower
from pt_vision.networks.clip.models import Pair, open_clip_pair
from pt_vision.networks.clip.tokens import framing


def open_clip_backbone(spec: str, weights: Path | None, device: torch.device | str = "cpu") -> DualBackbone:
    """`open_clip:NAME[@TAG]` or a folder in open_clip's hub layout."""
    backbone = adapt_pair(open_clip_pair(spec, weights, device), spec)
    if str(device) != "meta":
        backbone.to(device)
    return backbone


def adapt_pair(pair: Pair, source: str) -> DualBackbone:
    """An open_clip model (CLIP, CustomTextCLIP, CoCa) as two towers. It is frozen in place.

    Raises:
        UserError: a tower that cannot be adapted.
    """
    module: Any = pair.module
    text_module: Any = getattr(module, "text", None) or JoinedText(module)
    length = _length(module, text_module, pair.tokenizer)
    frame = framing(pair.tokenizer, length, source)
    text: WordsTower
    if isinstance(text_module, HFTextEncoder):
        text = EncoderText(text_module, source, frame)
    elif isinstance(text_module, (TextTransformer, JoinedText)):
        text = ClipText(text_module, source, frame)
    else:
        raise UserError(
            f"the text tower of {source!r} is a {type(text_module).__name__}, for which there is no adapter"
        )
    meta = next(module.parameters()).device.type == "meta"
    scale = 1.0 if meta else float(module.logit_scale.detach().exp())
    bias = None if meta or module.logit_bias is None else float(module.logit_bias.detach())
    image = _image(module.visual, source, pair.preprocessing)
    return DualBackbone(image, text, source, scale, bias, pair.tokenizer)


def _image(module: nn.Module, source: str, preprocessing: Mapping[str, Any]) -> ImageTower:
    if isinstance(module, VisionTransformer):
        return ViTImage(module, source, preprocessing)
    if not isinstance(module, TimmModel):
        return WholeImage(module, source, preprocessing)
    trunk: VisionBackbone | None = None
    with suppress(UserError):  # no adapter for its class: the tower serves as a whole
        trunk = adapt(module.trunk, source, preprocessing)
    return TimmImage(module, source, preprocessing, trunk)


def _length(module: Any, text: Any, tokenizer: Any) -> int:
    """Tokens of a row: those of the text tower's positions (CoCa's decoder has others), else of the tokenizer."""
    if isinstance(text, TextTransformer):
        return int(text.context_length)
    own = getattr(tokenizer, "context_length", None)
    return int(module.context_length if isinstance(text, JoinedText) or not own else own)
