"""From what a backbone's name says to a network behind the contract: built, filled with weights, adapted and put on a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from pt_core.weights import check_finite

from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.mit import MitBackbone
from pt_vision.networks.files import MEAN, STD, read_backbone
from pt_vision.networks.hub_folder import (
    architecture,
    declared_architecture,
    model_args,
    overlay,
    read_config,
    weight_file,
)
from pt_vision.networks.mit import MitNetwork, build_mit, load_published, preprocessing
from pt_vision.networks.names import weights_needed
from pt_vision.networks.timm_models import check_model, check_patches, create
from pt_vision.networks.weights import load_weights, read_weights


def own_file(spec: str, path: Path, size: tuple[int, int] | None, device: torch.device | str) -> VisionBackbone:
    """A file written by `pt-vision pretrain`."""
    model, card = read_backbone(path)
    check_finite(model, spec)
    backbone: VisionBackbone
    if isinstance(model, MitNetwork):
        _no_size(spec, size)
        backbone = MitBackbone(model, spec, card["preprocessing"])
    else:
        if size is not None and size != model.patch_embed.img_size:
            check_patches(model, size)
            model.set_input_size(size)  # resamples the position embeddings
        prepared: Mapping[str, Any] = card.get("preprocessing") or {}
        data = {
            "input_size": [3, *model.patch_embed.img_size],
            "interpolation": str(prepared.get("interpolation", "bicubic")),
            "mean": [float(x) for x in prepared.get("mean", MEAN)],
            "std": [float(x) for x in prepared.get("std", STD)],
            "crop_pct": 1.0,
            "crop_mode": "center",
        }
        backbone = adapt(model, spec, data)
    backbone.to(device)
    return backbone


def published_mit(
    spec: str, weights: Path | None, size: tuple[int, int] | None, device: torch.device | str
) -> VisionBackbone:
    """`mit:b5` or `segformer:b4` with a local weight file."""
    _no_size(spec, size)
    kind, _, name = spec.partition(":")
    meta = str(device) == "meta"
    with torch.device("meta" if meta else "cpu"):
        module = build_mit(name, decoder=kind == "segformer")
    if not meta:
        if weights is None:
            raise UserError(weights_needed(spec))
        file = weight_file(weights)
        load_published(module, read_weights(file), str(file))
    backbone = MitBackbone(module, spec, preprocessing(1024))
    if not meta:
        backbone.to(device)
    return backbone


def timm_backbone(
    spec: str, name: str, weights: Path | None, size: tuple[int, int] | None, device: torch.device | str
) -> VisionBackbone:
    """A model of timm with hub weights, or with those of a local file or folder."""
    check_model(name)
    meta = str(device) == "meta"
    file = None if weights is None else weight_file(weights)
    config = read_config(weights) if weights is not None and (weights / "config.json").is_file() else {}
    declared = declared_architecture(config)
    if declared and declared != name.partition(".")[0]:
        raise UserError(
            f"{weights} holds weights of {declared!r}, not of {name!r}; use timm:{declared} or local:{weights}"
        )
    arguments = model_args(config, spec)
    if arguments:  # an absurd size must fail by name, not by memory
        create(name, spec, {**arguments, **overlay(config, spec)}, size, meta=True)
    hub = weights is None and not meta
    model = create(name, spec, {**arguments, **overlay(config, spec)}, size, meta=meta, pretrained=hub)
    if size is not None:
        check_patches(model, size)
    notes: tuple[str, ...] = ()
    if file is not None and not meta:
        notes = load_weights(model, read_weights(file), str(file))
    elif hub:
        check_finite(model, spec)
    backbone = adapt(model, spec)
    backbone.notes = notes
    if not meta:
        backbone.to(device)
    return backbone


def folder(spec: str, path: Path, size: tuple[int, int] | None, device: torch.device | str) -> VisionBackbone:
    """A folder in the hub's layout."""
    return timm_backbone(spec, architecture(path), path, size, device)


def _no_size(spec: str, size: tuple[int, int] | None) -> None:
    if size is not None:
        raise UserError(f"backbone {spec!r} reads images of any size; leave out image_size")
