"""Data flags that only segmentation reads; no torch here, the help must not wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le


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
