"""Files of `pt-pointcloud pretrain`: weights with the network's sizes inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pt_core.run.declare.options import build_all
from pt_core.weights import fitting, read_network, write_network

from pt_pointcloud.networks.transformer import CLASS_TENSORS, PointConfig, PointTransformer

PACKAGE = "pt_pointcloud"


def save_backbone(net: PointTransformer, card: dict[str, Any], out: Path) -> None:
    """Write the weights without the class token, and the card."""
    write_network(out, PACKAGE, {n: t for n, t in net.state_dict().items() if not n.startswith("cls_")}, card)


def load_backbone(path: Path) -> tuple[PointTransformer, dict[str, Any]]:
    """A file written by `pretrain`: the network in float32, and its card.

    Raises:
        UserError: damaged, not one of ours, or of a newer format.
    """
    card, tensors = read_network(path, PACKAGE, "use pointmae: --weights FILE for other weights")
    config = build_all({"model": PointConfig}, card["model"], context=f"option of {path}")["model"]
    with fitting(path):
        with torch.device("meta"):  # the card is untrusted: an absurd size must fail by name, not by memory
            net = PointTransformer(config)
        tokens = {name: torch.zeros(1, 1, config.dim) for name in CLASS_TENSORS}
        net.load_state_dict({**tokens, **tensors}, strict=True, assign=True)
    return net, card
