"""Generated shapes with named parts: material for demonstrations, tests and the pretraining of the built-in backbone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pt_core.data import stable_seed

from pt_pointcloud.shapes.families import OTHERS, TARGETS, assembly
from pt_pointcloud.shapes.primitives import sample_parts, turn

ASSEMBLIES = 0.6
"""Share of random assemblies among the shapes for pretraining; the rest are the families of `OTHERS`."""


def _pose(points: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A heading anywhere about y and a slight tilt."""
    rotation = turn("x", rng.normal(0, 4)) @ turn("z", rng.normal(0, 4)) @ turn("y", rng.uniform(0, 360))
    return (points @ rotation.T).astype(np.float32)


def shape(name: str, number: int, points: int, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    """Shape `number` of a family: (points, 3) in the unit sphere, and the part of every point; the same on every call."""
    rng = np.random.default_rng(stable_seed("shape", seed, name, number))
    family = TARGETS.get(name) or OTHERS[name]
    cloud, parts = sample_parts(family(rng), points, rng)
    return _pose(cloud, rng), parts


def pretraining_shape(number: int, points: int, seed: int = 0) -> NDArray[np.float32]:
    """(points, 3): an assembly or a shape of a family that is no target."""
    rng = np.random.default_rng(stable_seed("pretraining", seed, number))
    names = sorted(OTHERS)
    family = assembly if rng.random() < ASSEMBLIES else OTHERS[names[int(rng.integers(len(names)))]]
    cloud, _ = sample_parts(family(rng), points, rng)
    return _pose(cloud, rng)
