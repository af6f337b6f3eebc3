"""Training views of clouds (batch, point, 3), as published; each cloud has its own draw."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def scale_translate(points: Tensor, rng: torch.Generator) -> Tensor:
    """Per-axis scale U(2/3, 3/2) and shift U(-0.2, 0.2) (ModelNet, pretraining)."""
    scale = torch.empty(len(points), 1, 3).uniform_(2 / 3, 3 / 2, generator=rng)
    shift = torch.empty(len(points), 1, 3).uniform_(-0.2, 0.2, generator=rng)
    return points * scale.to(points) + shift.to(points)


def rotate_y(points: Tensor, rng: torch.Generator) -> Tensor:
    """One rotation about y by U(0, 2 pi) (ScanObjectNN)."""
    angle = torch.empty(len(points)).uniform_(0, 2 * math.pi, generator=rng).to(points)
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    matrix = torch.stack([c, zero, s, zero, one, zero, -s, zero, c], 1).view(-1, 3, 3)
    return points @ matrix.transpose(1, 2)
