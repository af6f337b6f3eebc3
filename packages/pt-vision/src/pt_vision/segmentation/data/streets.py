"""Drawn street scenes with exact masks and depth, by day and under weather: data that need no download.

A scene is a road in perspective between sidewalks, rows of buildings and trees, with poles, signs, cars and persons; colours and
places are random. Scene n of a role is a function of (seed, role, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pt_core.data import stable_seed
from scipy.ndimage import gaussian_filter

from pt_vision.segmentation.data.dataset import SegmentationDataset
from pt_vision.segmentation.data.masks import ArrayMasks
from pt_vision.segmentation.data.weather import CONDITIONS, apply

CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "pole", "traffic sign", "car", "person")
ROWS, COLUMNS = 128, 192
SIZES = {"train": 80, "target": 96, "val": 16, "test": 48}
"""Scenes per role; weather takes turns in all but train."""
SMALL = {"train": 12, "target": 16, "val": 4, "test": 8}
"""Of `builtin:streets_small`, the first scenes of each role."""
FAR = 4.0
"""Depth of the sky and of what lies at the horizon."""
SEED = 2024
Colour = tuple[int, int, int]


@dataclass
class Scene:
    """pixels (row, column, 3) uint8, mask (row, column) uint8, depth (row, column)."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    depth: NDArray[np.float64]


class _Canvas:
    """Draws the same shape into picture, mask and depth."""

    def __init__(self, rows: int, columns: int, sky: Colour) -> None:
        self.rows, self.columns = rows, columns
        self.picture = Image.new("RGB", (columns, rows), sky)
        self.classes = Image.new("L", (columns, rows), CLASSES.index("sky"))
        self.depth = Image.new("F", (columns, rows), FAR)
        self.pens = [ImageDraw.Draw(image) for image in (self.picture, self.classes, self.depth)]

    def polygon(self, corners: list[tuple[float, float]], kind: str, colour: Colour, depth: float) -> None:
        inks: tuple[Any, ...] = (colour, CLASSES.index(kind), depth)
        for pen, ink in zip(self.pens, inks, strict=True):
            pen.polygon(corners, fill=ink)

    def box(
        self, left: float, top: float, right: float, bottom: float, kind: str, colour: Colour, depth: float
    ) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], kind, colour, depth)

    def ellipse(self, x: float, y: float, a: float, b: float, kind: str, colour: Colour, depth: float) -> None:
        inks: tuple[Any, ...] = (colour, CLASSES.index(kind), depth)
        for pen, ink in zip(self.pens, inks, strict=True):
            pen.ellipse([x - a, y - b, x + a, y + b], fill=ink)


def _colour(rng: np.random.Generator, base: Colour, spread: int = 18) -> Colour:
    r, g, b = (int(np.clip(v + rng.integers(-spread, spread + 1), 0, 255)) for v in base)
    return r, g, b


def draw_scene(rng: np.random.Generator, rows: int = ROWS, columns: int = COLUMNS) -> Scene:
    """A day scene."""
    horizon = int(rng.uniform(0.38, 0.5) * rows)
    vanish = rng.uniform(0.4, 0.6) * columns
    canvas = _Canvas(rows, columns, _colour(rng, (150, 190, 230)))

    def ground(y: float) -> float:
        return min(FAR, 0.25 * rows / max(y - horizon, 1e-6))

    def edge(share: float, y: float) -> float:
        """x of a line from the vanishing point that meets the lower border at `share` of the width."""
        return vanish + (share * columns - vanish) * (y - horizon) / (rows - horizon)

    _facades(canvas, rng, horizon)
    road, walk = _colour(rng, (95, 95, 100)), _colour(rng, (165, 155, 150))
    left, right = rng.uniform(-0.05, 0.15), rng.uniform(0.85, 1.05)
    for y in range(horizon, rows):
        d = ground(y + 0.5)
        canvas.box(0, y, columns, y + 1, "vegetation", _colour(rng, (90, 130, 70), 6), d)
        canvas.box(edge(left - 0.35, y), y, edge(right + 0.35, y), y + 1, "sidewalk", walk, d)
        canvas.box(edge(left, y), y, edge(right, y), y + 1, "road", road, d)
        if int(12 * ground(y + 0.5)) % 2:
            canvas.box(edge(0.49, y), y, edge(0.51, y), y + 1, "road", (215, 215, 205), d)
    _things(canvas, rng, horizon, edge, (left, right))
    texture = gaussian_filter(rng.normal(0, 9, (rows, columns, 1)), (0.7, 0.7, 0)) + rng.normal(
        0, 3, (rows, columns, 3)
    )
    light = np.linspace(1.04, 0.96, rows)[:, None, None] * rng.uniform(0.9, 1.08)
    pixels = np.asarray(canvas.picture, dtype=np.float64) * light + texture
    pixels = gaussian_filter(pixels, (0.4, 0.4, 0)).clip(0, 255).astype(np.uint8)
    return Scene(pixels, np.array(canvas.classes, dtype=np.uint8), np.array(canvas.depth, dtype=np.float64))


def _facades(canvas: _Canvas, rng: np.random.Generator, horizon: int) -> None:
    """Buildings with windows, and trees in front of them, along the horizon."""
    x = -rng.uniform(0, 12)
    while x < canvas.columns:
        width, open_ = rng.uniform(14, 40), rng.random() < 0.15
        side = abs(x + width / 2 - canvas.columns / 2) / (canvas.columns / 2)
        if not open_:
            top = horizon - rng.uniform(0.25, 0.55) * canvas.rows * (0.35 + 0.65 * side)
            depth = float(np.interp(side, [0, 1], [3.0, 0.9]))
            wall = _colour(rng, ((150, 120, 100), (175, 165, 150), (120, 125, 135))[int(rng.integers(3))])
            canvas.box(x, top, x + width, horizon + 2, "building", wall, depth)
            glass = _colour(rng, (70, 80, 95))
            for wy in np.arange(top + 3, horizon - 3, 8).tolist():
                for wx in np.arange(x + 3, x + width - 4, 8).tolist():
                    canvas.box(wx, wy, wx + 3, wy + 4, "building", glass, depth)
        if rng.random() < 0.45:
            cx, size = x + rng.uniform(0, width), rng.uniform(6, 15)
            depth = float(np.interp(side, [0, 1], [2.5, 0.8]))
            canvas.box(cx - 1, horizon - size, cx + 1, horizon + 3, "vegetation", (80, 60, 45), depth)
            for _ in range(4):
                leaf = _colour(rng, (60, 105, 50), 22)
                dx, dy = rng.uniform(-size / 2, size / 2), rng.uniform(-size / 2, size / 2)
                canvas.ellipse(cx + dx, horizon - size + dy, size * 0.6, size * 0.6, "vegetation", leaf, depth)
        x += width * rng.uniform(0.9, 1.25)


def _things(canvas: _Canvas, rng: np.random.Generator, horizon: int, edge: object, road: tuple[float, float]) -> None:
    """Cars, persons, poles and signs, the farthest first."""
    line = edge if callable(edge) else None
    assert line is not None
    kinds = (
        ["car"] * int(rng.integers(1, 5)) + ["person"] * int(rng.integers(1, 5)) + ["pole"] * int(rng.integers(2, 5))
    )
    feet = sorted(rng.uniform(0.03, 0.75, len(kinds)) ** 1.3)
    for kind, share in zip(rng.permutation(kinds), feet, strict=True):
        foot = horizon + 3 + share * (canvas.rows - horizon - 3)
        scale = (foot - horizon) / (canvas.rows - horizon)
        depth = min(FAR, 0.25 * canvas.rows / (foot - horizon))
        if kind == "car":
            _car(canvas, rng, line(rng.uniform(road[0] + 0.08, road[1] - 0.08), foot), foot, scale, depth)
            continue
        side = road[0] - rng.uniform(0.03, 0.28) if rng.random() < 0.5 else road[1] + rng.uniform(0.03, 0.28)
        if kind == "person" and rng.random() < 0.3:
            side = rng.uniform(*road)
        x = line(side, foot)
        if kind == "person":
            high, wide = 6 + 34 * scale, 2 + 8 * scale
            clothes = _colour(rng, (90, 70, 90), 60)
            canvas.box(x - wide / 2, foot - high * 0.8, x + wide / 2, foot, "person", clothes, depth)
            canvas.ellipse(
                x, foot - high * 0.88, wide * 0.35, high * 0.12, "person", _colour(rng, (200, 160, 130)), depth
            )
        else:
            high, wide = 18 + 80 * scale, 1 + 3 * scale
            canvas.box(x - wide / 2, foot - high, x + wide / 2, foot, "pole", _colour(rng, (125, 125, 130)), depth)
            if rng.random() < 0.7:
                size = 2.5 + 9 * scale
                face = ((200, 40, 40), (40, 70, 180), (220, 190, 40))[int(rng.integers(3))]
                canvas.ellipse(x, foot - high, size, size, "traffic sign", _colour(rng, face), depth)
                canvas.ellipse(x, foot - high, size * 0.55, size * 0.55, "traffic sign", (235, 235, 235), depth)


def _car(canvas: _Canvas, rng: np.random.Generator, x: float, foot: float, scale: float, depth: float) -> None:
    wide, high = 8 + 44 * scale, 5 + 22 * scale
    paint = _colour(
        rng, ((180, 40, 40), (40, 60, 140), (210, 210, 210), (40, 40, 45), (200, 170, 60))[int(rng.integers(5))]
    )
    canvas.box(x - wide / 2, foot - high * 0.62, x + wide / 2, foot - high * 0.1, "car", paint, depth)
    roof = [(x - wide * 0.38, foot - high * 0.6), (x - wide * 0.25, foot - high), (x + wide * 0.25, foot - high)]
    canvas.polygon([*roof, (x + wide * 0.38, foot - high * 0.6)], "car", paint, depth)
    canvas.box(x - wide * 0.24, foot - high * 0.92, x + wide * 0.24, foot - high * 0.64, "car", (60, 75, 90), depth)
    for place in (-0.3, 0.3):
        canvas.ellipse(x + place * wide, foot - high * 0.1, high * 0.14, high * 0.14, "car", (25, 25, 28), depth)


def street_scene(role: str, number: int, condition: str = "", severity: float = 0.7, seed: int = SEED) -> Scene:
    """Scene `number` of a role, by day or under a condition."""
    rng = np.random.default_rng(stable_seed(seed, "streets", role, number))
    scene = draw_scene(rng)
    if condition:
        scene.pixels = apply(condition, scene.pixels, severity, rng, scene.depth)
    return scene


@cache
def street_parts(
    severity: float, sizes: tuple[tuple[str, int], ...] = tuple(SIZES.items())
) -> dict[str, SegmentationDataset]:
    """train by day with masks; target under all conditions without masks; val and test under all conditions with masks."""
    parts: dict[str, SegmentationDataset] = {}
    for role, size in sizes:
        names = ["" if role == "train" else CONDITIONS[n % len(CONDITIONS)] for n in range(size)]
        scenes = [street_scene(role, n, name, severity) for n, name in enumerate(names)]
        parts[role] = SegmentationDataset(
            [scene.pixels for scene in scenes],
            [f"{role}/{name or 'day'}-{n}" for n, name in enumerate(names)],
            None if role == "target" else ArrayMasks([scene.mask for scene in scenes]),
            list(CLASSES),
            names if role != "train" else (),
        )
    return parts
