"""What a reader hands over: clouds by role, with the names of classes and parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Role -> the names it goes by; capitals do not matter."""
ARRAY_FILES = (".npz", ".h5", ".hdf5")


def role_of(name: str) -> str | None:
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


@dataclass
class Part:
    """Clouds of one role.

    Attributes:
        clouds: (point, 3) float32 each, checked, as they are stored (meshes: sampled).
        ids: one name each.
        labels: one class name each.
        parts: (point,) part indices per cloud, or None.
    """

    clouds: list[NDArray[np.float32]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    parts: list[NDArray[np.int64]] | None = None


@dataclass
class Found:
    """role -> clouds; undivided data are the single part `train`. Names of classes and parts, where the data give an order."""

    roles: dict[str, Part]
    classes: list[str] | None = None
    part_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def sort_names(names: Sequence[str]) -> list[str]:
    """Distinct names in order: numerically if all are whole numbers."""
    distinct = set(names)
    if all(name.isascii() and name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def listed(items: Sequence[Any], most: int = 8) -> str:
    shown = [str(item) for item in items[:most]]
    return ", ".join(shown) + (f" and {len(items) - most} more" if len(items) > most else "")
