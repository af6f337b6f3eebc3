"""Pretraining from the images to the backbone file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pt_core.errors import UserError
from pt_core.run.pretrain.loop import last_tenth
from pt_core.run.pretrain.recipe import versions
from pt_core.weights import FORMAT_VERSION

from pt_vision.classification.pretrain.config import PretrainConfig, PretrainReport
from pt_vision.classification.pretrain.images import ImageSource, Source
from pt_vision.classification.pretrain.train import accuracy_of, train
from pt_vision.networks.files import MEAN, MODEL_FIELDS, STD, save_backbone


def _card(
    config: PretrainConfig, source: Source, drawn: bool, results: dict[str, Any], parameters: int
) -> dict[str, Any]:
    recipe = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in MODEL_FIELDS}
    return {
        "format_version": FORMAT_VERSION,
        "model": {name: getattr(config, name) for name in MODEL_FIELDS},
        "preprocessing": {"size": config.img_size, "mean": MEAN, "std": STD, "interpolation": "bicubic"},
        "parameters": parameters,
        "data": "drawn pictures (pt_vision.glyphs), no digits among the classes" if drawn else "user images",
        "class_names": list(source.class_names),
        "recipe": recipe,
        "results": results,
        "versions": versions("torch", "timm", "numpy", "pillow", "matplotlib"),
    }


def pretrain(
    config: PretrainConfig,
    out: Path,
    data: Iterable[tuple[Image.Image, int]] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> PretrainReport:
    """Train a ViT and write it to `out` (and a JSON beside it).

    Args:
        config: network and training.
        out: the safetensors file to write.
        data: images with labels 0 .. classes-1, read once; None draws pictures (`pt_vision.glyphs`).
        class_names: names of the classes, in label order; default their numbers.
        device: default: CUDA where there is one, else the CPU.
        progress: show a progress bar.

    Raises:
        UserError: `out` is not a .safetensors file name.
        DataError: see `ImageSource`.
        NonFiniteError: the loss became NaN or infinite.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source: Source
    if data is None:
        from pt_vision.glyphs.source import GlyphSource

        source = GlyphSource(config.img_size, config.seed)
    else:
        source = ImageSource(data, config, class_names)
    begin = time.monotonic()
    model, losses = train(config, source, where, progress)
    seconds = time.monotonic() - begin
    accuracy = accuracy_of(model, source, where)
    parameters = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("head."))
    train_loss = last_tenth(losses)
    results = {
        "train_loss": round(train_loss, 4),
        "held_out_accuracy": None if accuracy is None else round(accuracy, 4),
    }
    save_backbone(model, _card(config, source, data is None, results, parameters), out)
    return PretrainReport(out, parameters, len(source.class_names), train_loss, accuracy, seconds)
