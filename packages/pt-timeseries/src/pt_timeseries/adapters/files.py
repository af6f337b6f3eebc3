"""Encoders by architecture, and the files of `pt-timeseries pretrain`: weights with sizes and classes inside."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError, nearest
from pt_core.run.declare.options import build_all
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pt_timeseries.adapters.base import PretrainedHead, SeriesBackbone
from pt_timeseries.adapters.encoder import EncoderConfig, PatchEncoder
from pt_timeseries.adapters.patch import PatchBackbone

ARCHITECTURES = ("patch", "tsai:TST", "tsai:PatchTST", "tsai:InceptionTime")
FORMAT_VERSION = 1
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
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("pt_timeseries", "null"))
            tensors = {name: _widen(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); make or fetch it again") from None
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise UserError(f"{path} has no pt_timeseries metadata; make it with `pt-timeseries pretrain`")
    if card.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format {card.get('format_version')}, this version reads {FORMAT_VERSION}; update pt-timeseries"
        )
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
    try:
        # The card is untrusted: an absurd size must fail by name, not by memory.
        backbone = build(str(card.get("architecture", "patch")), config, spec, head, device="meta")
        backbone.module.load_state_dict(tensors, strict=True, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: weights and metadata do not fit ({reason}); make it again") from None
    backbone.module.requires_grad_(False).eval()
    if str(device) == "meta":
        backbone.module.to("meta")
    else:
        backbone.to(device)
    return backbone


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


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
    """Write encoder and classifier as fp16, with `card` as metadata and as JSON beside the file."""
    state = backbone.module.state_dict()
    tensors = {name: (t.half() if t.is_floating_point() else t).cpu().contiguous() for name, t in state.items()}
    if backbone.head is not None:
        tensors |= {"head.weight": backbone.head.weight.half().cpu(), "head.bias": backbone.head.bias.half().cpu()}
        card = {**card, "class_names": list(backbone.head.classes)}
    card = {**card, "format_version": FORMAT_VERSION, "architecture": architecture, "model": asdict(config)}
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".json")
    # Both are complete under their names or absent: a killed run leaves no half file that looks like a backbone.
    parts = [path.with_name(f".{path.name}.part") for path in (out, beside)]
    save_file(tensors, parts[0], metadata={"format": "pt", "pt_timeseries": json.dumps(card, sort_keys=True)})
    parts[1].write_text(json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for part, path in zip(parts, (out, beside), strict=True):
        os.replace(part, path)
