"""Pairs of colours for drawn pictures: any two that can be told apart, or a shade of a given hue beside a grey."""

from __future__ import annotations

import torch
from torch import Tensor

from pt_vision.data import augment

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")


def two_colours(batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ink and paper, each (batch, 3, 1, 1), with a visible difference; a third is plain white on black or black on white."""
    paper, ink = torch.rand(batch, 3, generator=rng), torch.rand(batch, 3, generator=rng)
    grey = (torch.rand(batch, generator=rng) < 0.25).view(-1, 1)
    paper, ink = (torch.where(grey, c.mean(1, keepdim=True), c) for c in (paper, ink))
    darkness, lightness = paper.mean(1, keepdim=True), ink.mean(1, keepdim=True)
    far = torch.where(darkness < 0.5, 0.7 + 0.3 * ink, 0.3 * ink)
    ink = torch.where((darkness - lightness).abs() < 0.3, far, ink)
    plain = torch.rand(batch, 1, generator=rng)
    paper = torch.where(plain < 0.33, (plain < 0.11).float(), paper)
    ink = torch.where(plain < 0.33, (plain >= 0.11).float(), ink)
    return ink.view(-1, 3, 1, 1), paper.view(-1, 3, 1, 1)


def hue_colours(hues: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """hues: (batch,) positions in HUES -> the coloured and the grey part, each (batch, 3, 1, 1)."""
    batch = len(hues)
    position = hues / len(HUES) + augment.uniform(batch, -0.05, 0.05, rng)
    wheel = (6 * position.view(-1, 1) + torch.tensor([0.0, 4.0, 2.0])) % 6
    pure = ((wheel - 3).abs() - 1).clamp(0, 1)
    saturation, value = augment.uniform(batch, 0.45, 1, rng), augment.uniform(batch, 0.4, 1, rng)
    coloured = value.view(-1, 1) * (1 - saturation.view(-1, 1) * (1 - pure))
    grey = torch.rand(batch, 1, generator=rng).expand(-1, 3)
    return coloured.view(-1, 3, 1, 1), grey.reshape(-1, 3, 1, 1)
