"""Encoders by architecture, and the files of `pt-timeseries pretrain`: weights with sizes and classes inside."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError, nearest
from pt_core.run.declare.options import build_all
from pt_core.weights import FORMAT_VERSION, fitting, read_network, write_network

from pt_timeseries.adapters.base import PretrainedHead, SeriesBackbone
from pt_timeseries.adapters.encoder import EncoderConfig, PatchEncoder
from pt_timeseries.adapters.patch import PatchBackbone

ARCHITECTURES = ("patch", "tsai:TST", "tsai:PatchTST", "tsai:InceptionTime")
PACKAGE = "pt_timeseries"
LARGEST = 65536
"""Largest number accepted for a size in a file's card."""


def build(
    architecture: str,
    config: EncoderConfig,
    source: str,
    head: PretrainedHead | None = None,
    device: torch.device | str = "cpu",
) -> SeriesBackbone:
    """A backbone with initial weights.

    Raises:
        UserError: an unknown architecture.
        MissingExtra: it is one of tsai, which is not installed.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"unknown architecture {architecture!r}{nearest(architecture, ARCHITECTURES)}; known: {known}")
    with torch.device(device) if str(device) == "meta" else contextlib.nullcontext():
        if architecture == "patch":
            return PatchBackbone(PatchEncoder(config), source, head)
        # Imported only where it is named: tsai takes seconds.
        from pt_timeseries.adapters.tsai import build_tsai

        return build_tsai(architecture.removeprefix("tsai:"), config, source, head)


def read_backbone(spec: str, path: Path, device: torch.device | str = "cpu") -> SeriesBackbone:
    """A file of `write_backbone` as a frozen backbone."""
    card, tensors = read_network(path, PACKAGE, "make it with `pt-timeseries pretrain`")
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise UserError(f"{path}: weight {bad[0]!r} has NaN or infinite values; make it again")
    head = None
    if "head.weight" in tensors:
        classes = tuple(str(name) for name in card.get("class_names", ()))
        weight, bias = tensors.pop("head.weight"), tensors.pop("head.bias", torch.zeros(0))
        if weight.ndim != 2 or not len(classes) == len(weight) == len(bias):
            raise UserError(f"{path}: its classifier and its {len(classes)} class names do not fit; make it again")
        head = PretrainedHead(weight, bias, classes)
    config = read_config(card["model"], str(path))
    with fitting(path):
        # The card is untrusted: an absurd size must fail by name, not by memory.
        backbone = build(str(card.get("architecture", "patch")), config, spec, head, device="meta")
        backbone.module.load_state_dict(tensors, strict=True, assign=True)
    backbone.module.requires_grad_(False).eval()
    if str(device) == "meta":
        backbone.module.to("meta")
    else:
        backbone.to(device)
    return backbone


def read_config(model: dict[str, Any], source: str) -> EncoderConfig:
    """Sizes of a card, validated."""
    huge = [name for name, value in model.items() if isinstance(value, (int, float)) and abs(value) > LARGEST]
    if huge:
        raise UserError(f"{source}: {huge[0]}={model[huge[0]]} is not a plausible size")
    config: EncoderConfig = build_all({"model": EncoderConfig}, model, context=f"size in {source}")["model"]
    return config


def write_backbone(
    backbone: SeriesBackbone, architecture: str, config: EncoderConfig, card: dict[str, Any], out: Path
) -> None:
    """Write encoder and classifier, and the card with what they are."""
    tensors = dict(backbone.module.state_dict())
    if backbone.head is not None:
        tensors |= {"head.weight": backbone.head.weight, "head.bias": backbone.head.bias}
        card = {**card, "class_names": list(backbone.head.classes)}
    card = {**card, "format_version": FORMAT_VERSION, "architecture": architecture, "model": asdict(config)}
    write_network(out, PACKAGE, tensors, card)
