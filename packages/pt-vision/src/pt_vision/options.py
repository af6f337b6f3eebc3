"""The flags that only pt-vision has; no torch here, the help must not wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pt_core.run.declare.fields import Depth, Heads, PeakRate, Seed, Steps, Width
from pt_core.run.declare.options import ClassificationOptions


@dataclass(frozen=True)
class SegmentationOptions:
    """How images with masks are read."""

    classes_file: str | None = None
    """Segmentation: class names, one a line in the order of the mask values, each with its colour (R G B) where masks are coloured;
    a line `ignore` marks pixels that count nowhere (default: classes.txt in the data folder)."""
    ignore_values: tuple[int, ...] = ()
    """Segmentation: mask values that count nowhere, besides 255."""
    resize_rows: Annotated[int, Ge(1)] | None = None
    """Segmentation: rows that images and masks are resized to (default: as they are)."""
    resize_columns: Annotated[int, Ge(1)] | None = None
    """Segmentation: columns that images and masks are resized to."""
    scale_min: Annotated[float, Gt(0)] | None = None
    """Segmentation: smallest random scale of training crops (default: 0.5 with `--augment standard`, else 1)."""
    scale_max: Annotated[float, Gt(0)] | None = None
    """Segmentation: largest random scale of training crops (default: 2 with `--augment standard`, else 1)."""
    weather_severity: Annotated[float, Ge(0), Le(1)] = 0.7
    """Strength of fog, night, rain and snow in `builtin:streets`."""


@dataclass(frozen=True)
class DataOptions(SegmentationOptions):
    """How image data are read."""

    image_column: str | None = None
    """Column with the image: a path relative to the table, or encoded bytes (default: path, image, img, jpeg ...)."""
    label_column: str | None = None
    """Column with the class (default: label, class, target, category)."""
    split_column: str | None = None
    """Column with train, val or test (default: split, where there is one)."""
    group_column: str | None = None
    """Column (npz: arrays NAME_train ...) of a patient or subject; splits keep every group on one side."""
    where: tuple[str, ...] = ()
    """Use only rows with COLUMN=VALUE or COLUMN!=VALUE; several values with |. All conditions must hold."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training part that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    skip_bad: bool = False
    """Leave out unreadable images (counted) instead of stopping."""
    background: str = "white"
    """Colour behind transparent pixels: a name or #rrggbb."""
    augment: Literal["none", "flip", "standard", "medical"] = "none"
    """Augmentation of the training view; `none` lets frozen features be cached."""
    image_size: Annotated[int, Ge(1)] | None = None
    """Input size of the backbone in pixels, where it can be changed when the backbone is loaded."""


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """Flags of the task."""

    task: Literal["classification", "segmentation"] = "classification"
    """What is predicted: one class per image, or one per pixel."""


@dataclass(frozen=True)
class PretrainOptions:
    """Flags of `pt-vision pretrain`."""

    kind: Literal["vit", "segmenter"] = "vit"
    """A ViT for classification, or a small MiT with SegFormer's head on drawn shapes (the recipe of `builtin:mit_shapes`; of the flags
    below it reads steps, batch_size, lr and seed, by default 800, 16, 2e-3 and 0)."""
    data: str | None = None
    """Labelled images, as in `fit` (default: drawn glyphs, the recipe of the built-in backbone)."""
    where: tuple[str, ...] = ()
    """Use only rows with COLUMN=VALUE of a table."""
    image_column: str | None = None
    """Table column with the image (default: path, image, img, jpeg ...)."""
    img_size: Annotated[int, Ge(8)] = 32
    """Input size in pixels."""
    patch_size: Annotated[int, Ge(2)] = 8
    """Patch size in pixels."""
    embed_dim: Annotated[Width, Ge(8)] = 160
    depth: Depth = 6
    num_heads: Heads = 5
    steps: Steps | None = None
    """Optimiser steps (default: 2000)."""
    batch_size: Annotated[int, Ge(2)] | None = None
    """Images per step (default: 256)."""
    lr: PeakRate | None = None
    """Peak learning rate (default: 1.5e-3)."""
    seed: Seed = 0
