"""`builtin:shapes`: generated shapes of 12 classes with named parts."""

from __future__ import annotations

from functools import cache

import numpy as np

from pt_pointcloud.data.found import Found, Part
from pt_pointcloud.shapes import shape
from pt_pointcloud.shapes.families import TARGETS

COUNTS = {"train": 30, "val": 10, "test": 20}
"""Shapes per class."""
POINTS = 1024


@cache
def read_builtin() -> Found:
    """Every shape has a number of its own, so the parts share none."""
    named: dict[str, list[list[str]]] = {}
    found = Found({}, classes=sorted(TARGETS))
    for role, first in _starts():
        part = found.roles.setdefault(role, Part())
        for name in sorted(TARGETS):
            for number in range(first, first + COUNTS[role]):
                cloud, parts = shape(name, number, POINTS)
                part.clouds.append(cloud)
                part.ids.append(f"{name}-{number}")
                part.labels.append(name)
                named.setdefault(role, []).append([f"{name}/{own}" for own in parts])
    found.part_names = sorted({own for rows in named.values() for row in rows for own in row})
    position = {name: index for index, name in enumerate(found.part_names)}
    for role, part in found.roles.items():
        part.parts = [np.array([position[name] for name in own], dtype=np.int64) for own in named[role]]
    return found


def _starts() -> list[tuple[str, int]]:
    starts, first = [], 0
    for role, count in COUNTS.items():
        starts.append((role, first))
        first += count
    return starts
