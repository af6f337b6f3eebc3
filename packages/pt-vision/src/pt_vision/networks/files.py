"""Backbone files, written by `pt-vision pretrain`.

A safetensors file: the weights as fp16, without the classifier, and one metadata entry `pt_vision` (JSON) with everything needed to
build, feed and make the network again. The same JSON lies beside it to be read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pt_vision.networks.mit import MitNetwork, build_encoder, preprocessing
from pt_vision.networks.segformer import SegFormerHead

FORMAT_VERSION = 1
MEAN = STD = (0.5, 0.5, 0.5)
SEGMENTER = "segformer"
"""`kind` in the card of a segmenter."""
MODEL_FIELDS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")


def build_vit(model: dict[str, Any], num_classes: int = 0) -> VisionTransformer:
    """timm's ViT with a class token; `model` holds MODEL_FIELDS."""
    return VisionTransformer(**{name: model[name] for name in MODEL_FIELDS}, num_classes=num_classes)


def save_backbone(model: VisionTransformer, card: dict[str, Any], out: Path) -> None:
    """Write the weights without the head as fp16, with `card` as metadata, and `card` again as JSON beside the file."""
    tensors = {
        n: t.detach().half().cpu().contiguous() for n, t in model.state_dict().items() if not n.startswith("head.")
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False)
    beside = out.with_suffix(".json")
    # Both are complete under their names or absent: a killed run leaves no half file that looks like a backbone.
    parts = [path.with_name(f".{path.name}.part") for path in (out, beside)]
    # One entry only: safetensors writes several in random order, and the bytes would differ.
    save_file(tensors, parts[0], metadata={"pt_vision": json.dumps(card, sort_keys=True)})
    parts[1].write_text(text + "\n", encoding="utf-8")
    for part, path in zip(parts, (out, beside), strict=True):
        os.replace(part, path)


def read_backbone(path: Path) -> tuple[VisionTransformer | MitNetwork, dict[str, Any]]:
    """Read a backbone file: the network without a classifier (fp32, eval mode) and its card.

    Raises:
        UserError: the file is damaged, not written by `pretrain`, or of a newer format.
    """
    card, tensors = _open(path)
    model: VisionTransformer | MitNetwork
    try:
        # The card is untrusted: an absurd size must fail by name, not by memory.
        with torch.device("meta"):
            model = _segmenter(card["model"]) if card.get("kind") == SEGMENTER else build_vit(card["model"])
        model.load_state_dict(tensors, strict=True, assign=True)
        if isinstance(model, MitNetwork):
            card["preprocessing"] = preprocessing(int(card["preprocessing"]["crop"]))
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"{path}: weights and metadata do not fit ({str(error).splitlines()[0][:160]}); make it again"
        ) from None
    return model.requires_grad_(False).eval(), card


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("pt_vision", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); make or fetch it again") from None
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise UserError(f"{path} has no pt_vision metadata; use timm:NAME --weights FILE for other weights")
    if card.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format {card.get('format_version')}, this version reads {FORMAT_VERSION}; update pt-vision"
        )
    return card, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _segmenter(sizes: dict[str, Any]) -> MitNetwork:
    dims, depths, heads = (tuple(int(v) for v in sizes[key]) for key in ("embed_dims", "depths", "num_heads"))
    return MitNetwork(build_encoder(dims, depths, heads), SegFormerHead(dims, 0, int(sizes["decoder_width"])))
