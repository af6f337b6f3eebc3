"""Geometric figures, filled and outlined, in random proportions."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from pt_vision.glyphs.characters import CANVAS, INK

SHAPES = (
    *("disc", "ring", "square", "frame", "triangle", "pentagon", "star", "cross", "half-disc", "crescent", "cells"),
    *("ellipse", "rhombus", "blob"),
)


def _polygon(corners: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    centre, steps = CANVAS / 2, corners * len(radii)
    return [
        (centre + radii[i % len(radii)] * math.sin(2 * math.pi * i / steps),
         centre - radii[i % len(radii)] * math.cos(2 * math.pi * i / steps))
        for i in range(steps)
    ]  # fmt: skip


def draw_shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """One figure of SHAPES as a white mask on a CANVAS x CANVAS square, in random proportions."""
    image = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(image)
    centre, radius, width = CANVAS / 2, INK / 2, int(rng.integers(2, 6))

    def box(rx: float, ry: float, dx: float = 0.0, dy: float = 0.0) -> tuple[float, float, float, float]:
        return (centre + dx - rx, centre + dy - ry, centre + dx + rx, centre + dy + ry)

    if kind == "disc":
        pen.ellipse(box(radius, radius), fill=255)
    elif kind == "ellipse":
        pen.ellipse(box(radius, radius * rng.uniform(0.4, 0.65)), fill=255)
    elif kind == "ring":
        pen.ellipse(box(radius, radius), outline=255, width=width)
    elif kind == "square":
        pen.rectangle(box(radius * 0.85, radius * 0.85), fill=255)
    elif kind == "frame":
        pen.rectangle(box(radius * 0.85, radius * 0.85), outline=255, width=width)
    elif kind in ("triangle", "rhombus", "pentagon"):
        pen.polygon(_polygon({"triangle": 3, "rhombus": 4, "pentagon": 5}[kind], (radius,)), fill=255)
    elif kind == "star":
        pen.polygon(_polygon(5, (radius, radius * rng.uniform(0.35, 0.5))), fill=255)
    elif kind == "cross":
        arm = radius * rng.uniform(0.2, 0.4)
        pen.rectangle(box(radius, arm), fill=255)
        pen.rectangle(box(arm, radius), fill=255)
    elif kind == "half-disc":
        start = 90 * int(rng.integers(4))
        pen.pieslice(box(radius, radius), start, start + 180, fill=255)
    elif kind == "crescent":
        angle, cut = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.4, 0.6)
        pen.ellipse(box(radius, radius), fill=255)
        pen.ellipse(box(radius * 0.9, radius * 0.9, cut * math.cos(angle), cut * math.sin(angle)), fill=0)
    elif kind == "cells":
        for _ in range(int(rng.integers(4, 9))):
            size, (dx, dy) = rng.uniform(2, 6), rng.uniform(-radius, radius, 2)
            pen.ellipse(box(size, size * rng.uniform(0.7, 1.3), dx, dy), fill=int(rng.integers(150, 256)))
    elif kind == "blob":
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        lobes = np.ones(64)
        for k in (2, 3, 4, 5):
            lobes += rng.normal(0, 0.25 / k) * np.sin(k * angles + rng.uniform(0, 6.3))
        scale = radius / np.max(np.abs(lobes))
        pen.polygon(
            [
                (centre + scale * r * math.cos(a), centre + scale * r * math.sin(a))
                for r, a in zip(lobes, angles, strict=True)
            ],
            fill=255,
        )
    else:
        raise ValueError(f"unknown shape {kind!r}")
    return image
