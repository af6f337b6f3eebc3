"""Backbone files, written by `pt-vision pretrain`: see `pt_core.weights`. The classifier is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pt_core.weights import fitting, read_network, write_network
from timm.models.vision_transformer import VisionTransformer

from pt_vision.networks.mit import MitNetwork, build_encoder, preprocessing
from pt_vision.networks.segformer import SegFormerHead

PACKAGE = "pt_vision"
MEAN = STD = (0.5, 0.5, 0.5)
SEGMENTER = "segformer"
"""`kind` in the card of a segmenter."""
MODEL_FIELDS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")


def build_vit(model: dict[str, Any], num_classes: int = 0) -> VisionTransformer:
    """timm's ViT with a class token; `model` holds MODEL_FIELDS."""
    return VisionTransformer(**{name: model[name] for name in MODEL_FIELDS}, num_classes=num_classes)


def save_backbone(model: VisionTransformer, card: dict[str, Any], out: Path) -> None:
    """Write the weights without the head, and the card."""
    write_network(out, PACKAGE, {n: t for n, t in model.state_dict().items() if not n.startswith("head.")}, card)


def read_backbone(path: Path) -> tuple[VisionTransformer | MitNetwork, dict[str, Any]]:
    """Read a backbone file: the network without a classifier (fp32, eval mode) and its card.

    Raises:
        UserError: the file is damaged, not written by `pretrain`, or of a newer format.
    """
    card, tensors = read_network(path, PACKAGE, "use timm:NAME --weights FILE for other weights")
    model: VisionTransformer | MitNetwork
    with fitting(path):
        # The card is untrusted: an absurd size must fail by name, not by memory.
        with torch.device("meta"):
            model = _segmenter(card["model"]) if card.get("kind") == SEGMENTER else build_vit(card["model"])
        model.load_state_dict(tensors, strict=True, assign=True)
        if isinstance(model, MitNetwork):
            card["preprocessing"] = preprocessing(int(card["preprocessing"]["crop"]))
    return model.requires_grad_(False).eval(), card


def _segmenter(sizes: dict[str, Any]) -> MitNetwork:
    dims, depths, heads = (tuple(int(v) for v in sizes[key]) for key in ("embed_dims", "depths", "num_heads"))
    return MitNetwork(build_encoder(dims, depths, heads), SegFormerHead(dims, 0, int(sizes["decoder_width"])))
