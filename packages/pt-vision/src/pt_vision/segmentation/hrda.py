"""HRDA: logits of a small context view and of full-resolution detail, fused by a learned attention over scales (Hoyer et al., ECCV 2022).

For a crop of C pixels the context view is the crop at half resolution and the detail view a C/2 window at full resolution; both are C/2
pixels wide and go through one network. With context logits c and attention a on the context's quarter grid (C/8 cells), and detail
logits h put into the crop's quarter grid (C/4 cells)::

    fused = up((1 - a) c) + up(a) insert(h)        up: bilinear, twice the size; a is 0 outside the detail window
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

STEP = 8
"""Corners of detail windows are multiples of this, so that they lie on both quarter grids."""
Box = tuple[int, int]
"""(row, column) of a window's corner in pixels of the crop."""


def draw_box(size: int, rng: torch.Generator | None) -> Box:
    """A detail window of half the crop's size, its corner uniform over multiples of STEP."""
    places = (size - size // 2) // STEP + 1
    row, column = (torch.randint(places, (2,), generator=rng) * STEP).tolist()
    return int(row), int(column)


def context_view(images: Tensor) -> Tensor:
    """(batch, 3, C, C) -> (batch, 3, C/2, C/2)."""
    return F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)


def detail_view(images: Tensor, box: Box) -> Tensor:
    """(..., C, C) -> (..., C/2, C/2)."""
    half = images.shape[-1] // 2
    return images[..., box[0] : box[0] + half, box[1] : box[1] + half]


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def fuse(context: Tensor, attention: Tensor, detail: Tensor, box: Box | None = None) -> Tensor:
    """Fused logits on the crop's quarter grid.

    Args:
        context: (batch, class, C/8, C/8) logits c.
        attention: (batch, class, C/8, C/8) in [0, 1].
        detail: logits h of the window at `box`, (batch, class, C/8, C/8); of the whole crop, (batch, class, C/4, C/4), without `box`.
    """
    if box is not None:
        cells = context.shape[-1] // 2
        row, column = box[0] // 8, box[1] // 8
        mask = torch.zeros_like(attention[:1, :1])
        mask[..., row : row + cells, column : column + cells] = 1
        attention = attention * mask
        whole = detail.new_zeros(*detail.shape[:2], 2 * context.shape[2], 2 * context.shape[3])
        whole[..., 2 * row : 2 * row + detail.shape[2], 2 * column : 2 * column + detail.shape[3]] = detail
        detail = whole
    return double((1 - attention) * context) + double(attention) * detail


def window_corners(size: int, window: int, stride: int) -> list[int]:
    """Corners of windows that cover 0..size: every `stride`, the last one at the end."""
    if size <= window:
        return [0]
    return [*range(0, size - window, stride), size - window]


def cut_windows(images: Tensor, window: int, stride: int) -> tuple[Tensor, list[Box]]:
    """((windows * batch, channel, window, window), corners); all images of one window are neighbours."""
    boxes = [
        (row, column)
        for row in window_corners(images.shape[2], window, stride)
        for column in window_corners(images.shape[3], window, stride)
    ]
    return torch.cat([images[:, :, r : r + window, c : c + window] for r, c in boxes]), boxes


def average_windows(logits: Tensor, boxes: Sequence[Box], rows: int, columns: int, scale: int = 1) -> Tensor:
    """(batch, class, rows, columns): the mean of the windows' logits over each cell.

    Args:
        logits: (windows * batch, class, window, window).
        boxes: corners in pixels; a cell is `scale` pixels wide.
    """
    batch, side = len(logits) // len(boxes), logits.shape[-1]
    total = logits.new_zeros(batch, logits.shape[1], rows, columns)
    count = logits.new_zeros(1, 1, rows, columns)
    for part, (row, column) in zip(logits.split(batch), boxes, strict=True):
        place = (..., slice(row // scale, row // scale + side), slice(column // scale, column // scale + side))
        total[place] += part
        count[place] += 1
    return total / count
