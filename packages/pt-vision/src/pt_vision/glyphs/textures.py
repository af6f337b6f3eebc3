"""Patterns without a figure: stripes, checks, dots, rings, grain, clouds, patches and gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pt_vision.data import augment

TEXTURES = ("stripes", "checks", "dots", "rings", "grain", "clouds", "patches", "gradient")


def draw_texture(kinds: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """kinds: (batch,) positions in TEXTURES -> (batch, 1, size, size) in [0, 1], how much of the second colour is seen."""
    batch = len(kinds)
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def draw(low: float, high: float) -> Tensor:
        return augment.uniform(batch, low, high, rng).view(-1, 1, 1)

    angle, frequency, phase, other = draw(0, math.pi), draw(5, 16), draw(0, 6.3), draw(0, 6.3)
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    waves = (frequency * along + phase).sin(), (frequency * across + other).sin()
    radius = ((x - draw(-0.6, 0.6)).square() + (y - draw(-0.6, 0.6)).square()).sqrt()
    clouds = augment.smooth_noise(batch, 1, 5, size, rng).squeeze(1)
    sharp = draw(2, 8)
    patterns = (
        sharp * waves[0],
        sharp * waves[0] * waves[1] * 2,
        sharp * (waves[0] + waves[1] - 1),
        sharp * (frequency * radius + phase).sin(),
        2 * torch.randn(batch, size, size, generator=rng),
        1.2 * clouds,
        sharp * 2 * (clouds - 0.2),
        2.5 * along,
    )
    stacked = torch.stack([p.expand(batch, size, size) for p in patterns], 1)
    return stacked[torch.arange(batch), kinds].sigmoid().unsqueeze(1)
