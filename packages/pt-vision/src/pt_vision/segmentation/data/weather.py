"""Weather and night over a picture: fog, rain, snow, night, each with a severity in [0, 1]. Formulas, so that anyone can repeat them.

Pictures are (row, column, 3) floats in [0, 1]; depth is (row, column) in multiples of the distance at which the scene's middle lies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Picture = NDArray[np.float64]
Rng = np.random.Generator
CONDITIONS = ("fog", "night", "rain", "snow")


def row_depth(rows: int, columns: int, horizon: float = 0.45) -> Picture:
    """A depth for pictures that have none: a level ground below the horizon (1 / distance from it), 4 at and above it."""
    below = (np.arange(rows) + 0.5) / rows - horizon
    depth = np.where(below > 0, np.minimum(4.0, 0.25 / np.maximum(below, 1e-6)), 4.0)
    return np.repeat(depth[:, None], columns, 1)


def fog(picture: Picture, depth: Picture, severity: float, rng: Rng) -> Picture:
    """Koschmieder's law: I t + A (1 - t), t = exp(-beta depth); beta = 1.6 severity, A a light grey of its own per picture."""
    t = np.exp(-1.6 * severity * depth)[..., None]
    air = rng.uniform(0.72, 0.85) + rng.uniform(-0.02, 0.02, 3)
    return picture * t + air * (1 - t)


def night(picture: Picture, depth: Picture, severity: float, rng: Rng) -> Picture:
    """Darkened by 1 - 0.88 severity with a blue cast, lit by a few lamps (Gaussian glows), with sensor noise of 0.05 severity."""
    rows, columns = picture.shape[:2]
    dim = (1 - 0.88 * severity) * (1 + severity * np.array([-0.2, -0.13, 0.14]))
    glow = np.zeros((rows, columns))
    y, x = np.mgrid[:rows, :columns]
    for _ in range(int(rng.integers(1, 4))):
        row, column = rng.uniform(0.2, 0.7) * rows, rng.uniform(0, 1) * columns
        width = rng.uniform(0.05, 0.15) * rows
        glow += rng.uniform(0.3, 0.6) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    lit = picture * (dim + severity * glow[..., None] * np.array([1.0, 0.85, 0.6]))
    lit += severity * 0.12 * glow[..., None] * np.array([1.0, 0.85, 0.6])
    return lit + rng.normal(0, 0.05 * severity, picture.shape)


def rain(picture: Picture, depth: Picture, severity: float, rng: Rng) -> Picture:
    """Greyer and darker by 0.45 severity, a thin veil over distance, blurred, and crossed by bright streaks."""
    rows, columns = picture.shape[:2]
    grey = picture.mean(2, keepdims=True)
    flat = picture + 0.5 * severity * (grey - picture)
    veil = (1 - np.exp(-0.4 * severity * depth))[..., None]
    wet = (flat * (1 - veil) + 0.55 * veil) * (1 - 0.45 * severity)
    wet = gaussian_filter(wet, (0.8 * severity, 0.8 * severity, 0))
    drops = (rng.random((rows, columns)) < 0.02 * severity).astype(float)
    streaks = np.maximum.reduce([np.roll(np.roll(drops, n, 0), n // 3, 1) for n in range(max(2, rows // 12))])
    return wet + 0.35 * severity * gaussian_filter(streaks, 0.5)[..., None]


def snow(picture: Picture, depth: Picture, severity: float, rng: Rng) -> Picture:
    """Covers of white on the lower half where smooth noise says so, a light veil over distance, and flakes."""
    rows, columns = picture.shape[:2]
    noise = gaussian_filter(rng.normal(size=(rows, columns)), rows / 24)
    noise = (noise - noise.mean()) / noise.std()
    lower = np.clip((np.arange(rows)[:, None] / rows - 0.4) * 4, 0, 1)
    cover = np.clip(0.5 + noise, 0, 1) * lower * severity
    white = picture + cover[..., None] * (np.array([0.9, 0.92, 0.95]) - picture)
    veil = (1 - np.exp(-0.5 * severity * depth))[..., None]
    veiled = white * (1 - veil) + 0.8 * veil
    flakes = gaussian_filter((rng.random((rows, columns)) < 0.03 * severity).astype(float), 0.6)
    return veiled + 2.0 * severity * flakes[..., None]


WEATHER: dict[str, Callable[[Picture, Picture, float, Rng], Picture]] = {
    "fog": fog,
    "night": night,
    "rain": rain,
    "snow": snow,
}


def apply(
    name: str, pixels: NDArray[np.uint8], severity: float, rng: Rng, depth: Picture | None = None
) -> NDArray[np.uint8]:
    """The picture under a condition of CONDITIONS, as 8-bit RGB. Without depth, `row_depth` stands in."""
    picture = pixels.astype(np.float64) / 255
    if depth is None:
        depth = row_depth(*picture.shape[:2])
    return np.round(WEATHER[name](picture, depth, severity, rng).clip(0, 1) * 255).astype(np.uint8)
