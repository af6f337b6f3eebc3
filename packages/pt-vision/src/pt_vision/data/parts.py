"""What the readers share: the parts they give, names of roles and columns, and small helpers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from pt_core.errors import DataError, nearest

from pt_vision.data.images import Source

ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Role -> the names it goes by in folders, split columns, array names and hub data sets; capitals do not matter."""
IMAGE_COLUMNS = ("path", "image", "img", "jpeg", "file", "filename", "image_path", "file_name")
LABEL_COLUMNS = ("label", "class", "target", "category", "labels")


@dataclass
class Part:
    """Images of one role: one label and id each, and the further columns that were asked for."""

    sources: Sequence[Source]
    ids: Sequence[str]
    labels: Sequence[str]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class Found:
    """What a reader found.

    Attributes:
        parts: role -> images; data that name no parts are the single part `train`.
        classes: class names in the order that the data give them, or None where they give none.
        notes: one sentence each, for the user.
    """

    parts: dict[str, Part]
    classes: list[str] | None = None
    notes: list[str] = field(default_factory=list)


class Items(Sequence[Source]):
    """A sequence whose items are fetched when they are used; slices are `Rows` of it."""

    @abstractmethod
    def item(self, index: int) -> Source: ...

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Source]: ...
    def __getitem__(self, index: int | slice) -> Source | Sequence[Source]:
        return Rows(self, range(len(self))[index]) if isinstance(index, slice) else self.item(index)


class Rows(Items):
    """Some items of a sequence."""

    def __init__(self, base: Sequence[Source], rows: Sequence[int]) -> None:
        chosen = list(rows)
        if isinstance(base, Rows):
            chosen, base = [base.rows[row] for row in chosen], base.base
        self.base: Sequence[Source] = base
        self.rows: list[int] = chosen

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Source:
        return self.base[self.rows[index]]


def cell(value: Any, folder: Path) -> Source:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    # An empty cell becomes empty bytes, which the check of the images then lists by its row.
    return folder / str(value) if value not in (None, "") else b""


def column(names: Sequence[str], given: str | None, usual: Iterable[str], flag: str, where: Any) -> str:
    """The column that was named, or the first usual one that exists."""
    if given is not None:
        if given not in names:
            raise DataError(
                f"{where} has no column {given!r}{nearest(given, names)}; it has {listed(names, 20)} ({flag})"
            )
        return given
    usual = list(usual)
    for name in usual:
        if name in names:
            return name
    raise DataError(
        f"{where} has none of the columns {listed(usual)}; it has {listed(names, 20)}: name one with {flag}"
    )


def texts(values: Iterable[Any]) -> list[str]:
    return [text(value) for value in values]


def text(value: Any) -> str:
    """Missing values as an empty text, whole floats as integers (a table with gaps turns 3 into 3.0)."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def pick(values: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    return [values[row] for row in rows]


def listed(items: Sequence[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
