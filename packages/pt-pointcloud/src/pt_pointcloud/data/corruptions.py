"""What real scans do to a shape: missing parts, noise, outliers, rotation, background.

Functions of (points, severity in [0, 1], rng) that return the new points and the row each of them had before, -1 for added ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Cloud = NDArray[np.float32]
Rows = NDArray[np.intp]
Corrupted = tuple[NDArray[np.floating], Rows]


def _missing(points: Cloud, severity: float, rng: np.random.Generator) -> Corrupted:
    """The share `severity` of the points around a random one is gone."""
    keep = max(1, len(points) - round(severity * len(points)))
    distance = ((points - points[rng.integers(len(points))]) ** 2).sum(1)
    rows = np.sort(np.argsort(-distance, kind="stable")[:keep])
    return points[rows], rows


def _noise(points: Cloud, severity: float, rng: np.random.Generator) -> Corrupted:
    """Gaussian noise of standard deviation severity / 10 of the largest norm."""
    return points + rng.normal(0, 0.1 * severity * _radius(points), points.shape), np.arange(len(points))


def _outliers(points: Cloud, severity: float, rng: np.random.Generator) -> Corrupted:
    """A share severity / 2 of the points lies anywhere in the ball around the shape."""
    moved = rng.random(len(points)) < 0.5 * severity
    direction = rng.normal(size=points.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ball = direction * rng.random((len(points), 1)) ** (1 / 3) * _radius(points)
    return np.where(moved[:, None], ball, points), np.where(moved, -1, np.arange(len(points)))


def _rotation(points: Cloud, severity: float, rng: np.random.Generator) -> Corrupted:
    """A turn by up to severity * 180 degrees about a random axis."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = severity * math.pi * rng.uniform(-1, 1)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return points @ matrix.T, np.arange(len(points))


def _background(points: Cloud, severity: float, rng: np.random.Generator) -> Corrupted:
    """A share severity / 2 of the points is replaced by a piece of floor below the shape and of wall behind it."""
    radius, count = _radius(points), round(0.5 * severity * len(points))
    floor = rng.uniform(-1, 1, (count, 3)) * radius
    on_floor = rng.random(count) < 0.6
    floor[on_floor, 1] = points[:, 1].min()
    floor[~on_floor, 2] = points[:, 2].min()
    kept = np.sort(rng.permutation(len(points))[: len(points) - count])
    return np.concatenate([points[kept], floor]), np.concatenate([kept, np.full(count, -1)])


def _radius(points: Cloud) -> float:
    return float(np.linalg.norm(points, axis=1).max())


CORRUPTIONS: dict[str, Callable[[Cloud, float, np.random.Generator], Corrupted]] = {
    "missing": _missing,
    "noise": _noise,
    "outliers": _outliers,
    "rotation": _rotation,
    "background": _background,
}


def corrupt(points: Cloud, names: tuple[str, ...], severity: float, rng: np.random.Generator) -> tuple[Cloud, Rows]:
    """Apply corruptions in the order of `names`; returns the points and their rows in `points`, -1 for those that are none of them."""
    rows: Rows = np.arange(len(points))
    for name in names:
        moved, before = CORRUPTIONS[name](points, severity, rng)
        points, rows = np.asarray(moved, dtype=np.float32), np.where(before < 0, -1, rows[before])
    return points, rows
