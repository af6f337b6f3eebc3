"""Drawn scenes of simple shapes and textures with masks: what the built-in segmenter is pretrained on. No streets, no weather."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

CLASSES = (
    *("background", "disc", "ring", "square", "frame", "triangle", "cross", "star", "bar", "stripes"),
    *("checks", "dots"),
)
SIDE = 96
Rng = np.random.Generator


def shape_scene(rng: Rng, side: int = SIDE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(side, side, 3) pixels and (side, side) classes: 4 to 11 shapes of random colours over a shaded, noisy ground."""
    picture = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 4))):  # unlabelled patches: colour alone is no shape
        x, y = rng.uniform(-0.2, 1, 2) * side
        pen.rectangle([x, y, x + rng.uniform(0.3, 1) * side, y + rng.uniform(0.3, 1) * side], fill=_ink(rng))
    for _ in range(int(rng.integers(4, 12))):
        _shape(picture, mask, int(rng.integers(1, len(CLASSES))), rng, side)
    shade = gaussian_filter(rng.normal(0, 1, (side, side)), side / 6)
    shade = 1 + rng.uniform(0, 0.25) * shade / max(1e-6, np.abs(shade).max())
    pixels = np.asarray(picture, dtype=np.float64) * shade[..., None] * rng.uniform(0.6, 1.1)
    pixels = gaussian_filter(pixels, (rng.uniform(0, 0.7),) * 2 + (0,)) + rng.normal(
        0, rng.uniform(1, 12), pixels.shape
    )
    return pixels.clip(0, 255).astype(np.uint8), np.array(mask, dtype=np.uint8)


def _ink(rng: Rng) -> tuple[int, int, int]:
    r, g, b = rng.integers(0, 256, 3).tolist()
    return r, g, b


def _shape(picture: Image.Image, mask: Image.Image, kind: int, rng: Rng, side: int) -> None:
    """Draw one shape, turned by any angle, into both."""
    size = int(rng.uniform(0.12, 0.45) * side)
    stencil = Image.new("L", (2 * size, 2 * size), 0)
    pen = ImageDraw.Draw(stencil)
    c, r = size, 0.66 * size
    name = CLASSES[kind]
    angles = np.arange(10) * np.pi / 5
    if name in ("disc", "ring"):
        pen.ellipse([c - r, c - r, c + r, c + r], fill=255)
        if name == "ring":
            pen.ellipse([c - r * 0.55, c - r * 0.55, c + r * 0.55, c + r * 0.55], fill=0)
    elif name == "triangle":
        pen.polygon([(c, c - r), (c - r, c + r * 0.8), (c + r, c + r * 0.8)], fill=255)
    elif name == "cross":
        pen.rectangle([c - r, c - r * 0.3, c + r, c + r * 0.3], fill=255)
        pen.rectangle([c - r * 0.3, c - r, c + r * 0.3, c + r], fill=255)
    elif name == "star":
        pen.polygon(
            [(c + r * f * np.sin(a), c - r * f * np.cos(a)) for a, f in zip(angles, [1, 0.42] * 5, strict=True)],
            fill=255,
        )
    elif name == "bar":
        pen.rectangle([c - r * 0.12, c - r * 1.4, c + r * 0.12, c + r * 1.4], fill=255)
    else:
        pen.rectangle([c - r, c - r, c + r, c + r], fill=255)
        if name == "frame":
            pen.rectangle([c - r * 0.6, c - r * 0.6, c + r * 0.6, c + r * 0.6], fill=0)
    ink = Image.new("RGB", stencil.size, _ink(rng))
    if name in ("stripes", "checks", "dots"):
        y, x = np.mgrid[: 2 * size, : 2 * size] // max(2, int(rng.integers(2, 5)))
        on = {"stripes": x % 2 == 0, "checks": (x + y) % 2 == 0, "dots": (x % 2 == 0) & (y % 2 == 0)}[name]
        ink.paste(_ink(rng), mask=Image.fromarray((on * 255).astype(np.uint8)))
    angle = float(rng.uniform(0, 360)) if name != "bar" else float(rng.choice([0, 90]) + rng.normal(0, 8))
    stencil = stencil.rotate(angle, Image.Resampling.NEAREST)
    ink = ink.rotate(angle, Image.Resampling.NEAREST)
    corner = tuple((rng.uniform(0, 1, 2) * side - size).astype(int).tolist())
    picture.paste(ink, corner, stencil)
    mask.paste(kind, (corner[0], corner[1], corner[0] + 2 * size, corner[1] + 2 * size), stencil)
