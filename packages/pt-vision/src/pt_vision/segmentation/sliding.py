"""Sliding-window inference: an image of any size as windows of the training crop, their logits averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pt_vision.segmentation.hrda import average_windows, cut_windows


def slide(logits: Callable[[Tensor], Tensor], images: Tensor, crop: int, at_once: int = 96) -> Tensor:
    """Logits (batch, class, row, column) of images (batch, 3, row, column).

    Windows of `crop` pixels lie at multiples of crop / 2 and at the far edges. An image that is smaller is continued by zeros, the mean
    colour. A single window is a plain forward.

    Args:
        logits: (window, 3, crop, crop) -> (window, class, crop, crop).
        at_once: windows that run in one batch, rounded to the same ones of all images.
    """
    rows, columns = images.shape[2:]
    high, wide = max(rows, crop), max(columns, crop)
    if (high, wide) != (rows, columns):
        images = F.pad(images, (0, wide - columns, 0, high - rows))
    if high == wide == crop:
        return logits(images)[:, :, :rows, :columns]
    windows, boxes = cut_windows(images, crop, crop // 2)
    parts = torch.cat([logits(chunk) for chunk in windows.split(max(1, at_once // len(images)) * len(images))])
    return average_windows(parts, boxes, high, wide)[:, :, :rows, :columns]
