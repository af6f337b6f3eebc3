"""What a reader hands over: clouds by role, with the names of classes and parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Role -> the names it goes by; capitals do not matter."""
ARRAY_FILES = (".npz", ".h5", ".hdf5")


MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "null"})
"""What stands where a label is missing; capitals do not matter."""
MANY, PER_CLASS = 50, 5
"""More distinct numbers than the first are classes where there are several clouds of each."""


def named(value: Any, where: str) -> str:
    """The name of a class.

    Raises:
        DataError: nothing, or no single value.
    """
    if not isinstance(value, (str, int, np.integer)):
        if value is None or (isinstance(value, (float, np.floating)) and value != value):
            raise DataError(f"{where} has no class")
        if not isinstance(value, (float, np.floating)) or not float(value).is_integer():
            raise DataError(f"{where} has {value!r} as its class; give one name or whole number")
        value = int(value)
    text = str(value).strip()
    if text.lower() in MISSING:
        raise DataError(f"{where} has no class ({str(value)!r}); give it one, or leave it out")
    return text


def check_classes(labels: Sequence[str], where: str) -> None:
    """Refuse numbers that look like amounts.

    Raises:
        DataError: decimals, or many distinct numbers in few clouds.
    """
    distinct = set(labels)
    try:
        numbers = [float(name) for name in distinct]
    except ValueError:
        return
    broken = next((number for number in numbers if not number.is_integer()), None)
    if broken is not None:
        raise DataError(f"{where}: label {broken:g} is no class (regression is not supported)")
    if len(distinct) > MANY and len(labels) < PER_CLASS * len(distinct):
        raise DataError(
            f"{where}: {len(distinct)} distinct numbers in {len(labels)} clouds look like amounts (regression is not supported); "
            "where they are classes, give them names"
        )


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
