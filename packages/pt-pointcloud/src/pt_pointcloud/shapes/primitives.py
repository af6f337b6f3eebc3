"""Surfaces that generated shapes are assembled from: boxes, frustums, ellipsoids and tori, sampled uniformly by area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["box", "frustum", "ellipsoid", "torus"]


def turn(axis: Literal["x", "y", "z"], degrees: float) -> Array:
    """Rotation matrix about an axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


@dataclass(frozen=True)
class Primitive:
    """One surface with a part name, placed by a rotation and then an offset; its own axis is y.

    kind and sizes: `box` (x, y, z edges); `frustum` (bottom radius, top radius, height), closed by discs, centred; `ellipsoid` (x, y, z
    radii); `torus` (ring radius, tube radius, arc in degrees), in the x-y plane.
    """

    kind: Kind
    sizes: tuple[float, float, float]
    part: str
    at: Sequence[float] = (0.0, 0.0, 0.0)
    rotation: Array = field(default_factory=lambda: np.eye(3))

    @property
    def area(self) -> float:
        a, b, c = self.sizes
        if self.kind == "box":
            return 2 * (a * b + b * c + c * a)
        if self.kind == "frustum":
            return math.pi * ((a + b) * math.hypot(a - b, c) + a * a + b * b)
        if self.kind == "torus":
            return 2 * math.pi * b * a * math.radians(c)
        p = 1.6075  # Knud Thomsen's approximation, within 1.1 %
        return 4 * math.pi * ((a**p * b**p + a**p * c**p + b**p * c**p) / 3) ** (1 / p)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """(count, 3) points."""
        local = {"box": _box, "frustum": _frustum, "ellipsoid": _ellipsoid, "torus": _torus}[self.kind]
        return local(self.sizes, count, rng) @ self.rotation.T + np.asarray(self.at)


def _box(sizes: tuple[float, float, float], count: int, rng: np.random.Generator) -> Array:
    edges = np.asarray(sizes)
    areas = np.prod(edges) / edges
    axis = rng.choice(3, count, p=areas / areas.sum())
    points = (rng.random((count, 3)) - 0.5) * edges
    points[np.arange(count), axis] = (rng.integers(0, 2, count) - 0.5) * edges[axis]
    return points


def _frustum(sizes: tuple[float, float, float], count: int, rng: np.random.Generator) -> Array:
    low, high, height = sizes
    areas = np.array([(low + high) * math.hypot(low - high, height), low * low, high * high])
    where = rng.choice(3, count, p=areas / areas.sum())
    angle, u = rng.random(count) * 2 * math.pi, rng.random(count)
    # On the side the density grows with the radius r(t) = low + t (high - low): invert its integral.
    slope = high - low
    r = np.sqrt(low * low + u * (high * high - low * low)) if abs(slope) > 1e-9 else np.full(count, low)
    t = (r - low) / slope if abs(slope) > 1e-9 else u
    radius = np.select([where == 0, where == 1], [r, low * np.sqrt(u)], high * np.sqrt(u))
    y = np.select([where == 0, where == 1], [(t - 0.5) * height, np.full(count, -height / 2)], height / 2)
    return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], 1)


def _ellipsoid(sizes: tuple[float, float, float], count: int, rng: np.random.Generator) -> Array:
    radii = np.asarray(sizes)
    sphere = rng.normal(size=(4 * count + 16, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    # A patch of the sphere is stretched by |(bc x, ac y, ab z)|.
    stretch = np.linalg.norm(sphere * (np.prod(radii) / radii), axis=1)
    rows = rng.choice(len(sphere), count, p=stretch / stretch.sum())
    return sphere[rows] * radii


def _torus(sizes: tuple[float, float, float], count: int, rng: np.random.Generator) -> Array:
    ring, tube, arc = sizes
    tries = rng.random(4 * count + 16) * 2 * math.pi
    weight = ring + tube * np.cos(tries)
    around = rng.choice(tries, count, p=weight / weight.sum())
    along = rng.random(count) * math.radians(arc)
    distance = ring + tube * np.cos(around)
    return np.stack([distance * np.cos(along), distance * np.sin(along), tube * np.sin(around)], 1)


def sample_parts(
    primitives: Sequence[Primitive], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[str]]:
    """`count` points over all surfaces by area, centred and scaled to the unit sphere, and the part of each."""
    areas = np.array([primitive.area for primitive in primitives])
    shares = rng.multinomial(count, areas / areas.sum())
    points = np.concatenate([p.sample(int(n), rng) for p, n in zip(primitives, shares, strict=True)])
    names = [p.part for p, n in zip(primitives, shares, strict=True) for _ in range(int(n))]
    points -= points.mean(0)
    points /= np.linalg.norm(points, axis=1).max()
    order: Any = rng.permutation(count)
    return points[order].astype(np.float32), [names[i] for i in order]
