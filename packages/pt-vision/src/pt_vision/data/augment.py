"""Random image changes on whole batches of tensors, for pretraining.

Every function draws all its random numbers from the generator it is given, on the CPU, so that a batch is a function of the
generator's state. Images are floats in [0, 1] of shape (batch, channel, row, column).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Warp:
    """Ranges of the geometric change.

    Attributes:
        rotate: largest rotation to either side, in degrees.
        scale: smallest and largest size relative to the original; drawn log-uniformly.
        aspect: largest stretch of one axis against the other, as the natural logarithm of the ratio.
        shear: largest horizontal shear to either side (offset per unit of height).
        shift: largest shift to either side, as a fraction of half the image.
        elastic: standard deviation of a smooth displacement field, as a fraction of half the image.
        flip: probability of a left-right flip.
    """

    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    flip: float = 0.0


def uniform(batch: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """(batch,) numbers from U(low, high)."""
    return low + (high - low) * torch.rand(batch, generator=rng)


def sometimes(images: Tensor, probability: float, rng: torch.Generator, change: Change) -> Tensor:
    """Apply `change` to a random part of the rows, in place; it must keep the shape."""
    rows = torch.nonzero(torch.rand(len(images), generator=rng) < probability).flatten()
    if len(rows):
        images[rows] = change(images[rows])
    return images


def smooth_noise(batch: int, channels: int, cells: int, size: int, rng: torch.Generator) -> Tensor:
    """(batch, channels, size, size) standard normal noise on a coarse grid of cells x cells, enlarged smoothly."""
    coarse = torch.randn(batch, channels, cells, cells, generator=rng)
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)


def warp(images: Tensor, size: int, ranges: Warp, rng: torch.Generator, padding: str = "zeros") -> Tensor:
    """Rotate, scale, stretch, shear, shift and bend each image differently, and sample it at size x size.

    images: (batch, channel, row, column) -> (batch, channel, size, size). What comes from outside the image is 0 with padding
    "zeros" and mirrored with padding "reflection".
    """
    batch = len(images)
    angle = torch.deg2rad(uniform(batch, -ranges.rotate, ranges.rotate, rng))
    low, high = (torch.tensor(value).log().item() for value in ranges.scale)
    zoom = uniform(batch, low, high, rng)
    stretch = uniform(batch, -ranges.aspect, ranges.aspect, rng) / 2
    shear = uniform(batch, -ranges.shear, ranges.shear, rng)
    mirror = 1 - 2 * (torch.rand(batch, generator=rng) < ranges.flip).float()
    # The grid says for every output pixel where to read, so each factor is the inverse of the change it makes.
    x_factor = mirror * torch.exp(-zoom - stretch)
    y_factor = torch.exp(-zoom + stretch)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.empty(batch, 2, 3)
    matrix[:, 0, 0] = x_factor * (cos - shear * sin)
    matrix[:, 0, 1] = x_factor * (sin + shear * cos)
    matrix[:, 1, 0] = -y_factor * sin
    matrix[:, 1, 1] = y_factor * cos
    matrix[:, :, 2] = uniform(batch * 2, -ranges.shift, ranges.shift, rng).view(batch, 2)
    grid = F.affine_grid(matrix, [batch, images.shape[1], size, size], align_corners=False)
    if ranges.elastic > 0:
        strength = uniform(batch, 0.0, ranges.elastic, rng).view(batch, 1, 1, 1)
        grid = grid + strength * smooth_noise(batch, 2, 4, size, rng).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def thicken(images: Tensor) -> Tensor:
    """Widen bright strokes by one pixel on each side."""
    return F.max_pool2d(images, 3, stride=1, padding=1)


def thin(images: Tensor) -> Tensor:
    """Narrow bright strokes by half a pixel on each side (the mean of the image and its erosion, so that hairlines survive)."""
    return (images - F.max_pool2d(-images, 3, stride=1, padding=1)) / 2


def blur(images: Tensor) -> Tensor:
    """A 3x3 binomial filter."""
    return F.avg_pool2d(F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 2, stride=1), 2, stride=1)


def low_resolution(images: Tensor, rng: torch.Generator, divisors: tuple[float, ...] = (4.0, 3.2, 2.0)) -> Tensor:
    """Shrink by one of `divisors` (drawn once per call) and enlarge again."""
    size = images.shape[-1]
    divisor = divisors[int(torch.randint(len(divisors), (1,), generator=rng))]
    small = F.interpolate(images, size=(max(2, round(size / divisor)),) * 2, mode="area")
    mode = "bicubic" if torch.rand(1, generator=rng).item() < 0.5 else "bilinear"
    return F.interpolate(small, size=(size, size), mode=mode, align_corners=False).clamp(0, 1)


def noise(images: Tensor, rng: torch.Generator, largest: float = 0.1) -> Tensor:
    """Add white noise of a random strength per image."""
    strength = uniform(len(images), 0.0, largest, rng).view(-1, 1, 1, 1)
    return (images + strength * torch.randn(images.shape, generator=rng)).clamp(0, 1)


def colour(images: Tensor, rng: torch.Generator, largest: float = 0.4) -> Tensor:
    """Change brightness, contrast and saturation of RGB images by up to `largest`, differently for each."""
    brightness, contrast, saturation = (
        1 + uniform(len(images), -largest, largest, rng).view(-1, 1, 1, 1) for _ in range(3)
    )
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((mean + (images - mean) * contrast) * brightness).clamp(0, 1)
