"""Files of `pt-pointcloud pretrain`: weights with the network's sizes inside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from pt_core.run.declare.options import build_all
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pt_pointcloud.networks.transformer import CLASS_TENSORS, PointConfig, PointTransformer

FORMAT_VERSION = 1


def save_backbone(net: PointTransformer, card: dict[str, Any], out: Path) -> None:
    """fp16 weights with the card as metadata, and the card as JSON beside them; both complete under their names or absent."""
    half = {
        n: (t.half() if t.is_floating_point() else t).detach().cpu().contiguous() for n, t in net.state_dict().items()
    }
    tensors = {name: tensor for name, tensor in half.items() if not name.startswith("cls_")}
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".json")
    parts = [path.with_name(f".{path.name}.part") for path in (out, beside)]
    save_file(tensors, parts[0], metadata={"format": "pt", "pt_pointcloud": json.dumps(card, sort_keys=True)})
    parts[1].write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for part, path in zip(parts, (out, beside), strict=True):
        os.replace(part, path)


def load_backbone(path: Path) -> tuple[PointTransformer, dict[str, Any]]:
    """A file written by `pretrain`: the network in float32, and its card.

    Raises:
        UserError: damaged, not one of ours, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("pt_pointcloud", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); make or fetch it again") from None
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise UserError(f"{path} has no pt_pointcloud metadata; use pointmae: --weights FILE for other weights")
    if card.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format {card.get('format_version')}, this version reads {FORMAT_VERSION}; update pt-pointcloud"
        )
    config = build_all({"model": PointConfig}, card["model"], context=f"option of {path}")["model"]
    try:
        with torch.device("meta"):  # the card is untrusted: an absurd size must fail by name, not by memory
            net = PointTransformer(config)
        tokens = {name: torch.zeros(1, 1, config.dim) for name in CLASS_TENSORS}
        values = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
        net.load_state_dict({**tokens, **values}, strict=True, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: weights and metadata do not fit ({str(error).splitlines()[0]}); make it again"
        ) from None
    return net, card
