"""Class names from the cells of files: what names no class is refused, never turned into a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from pt_core.errors import DataError

EMPTY = frozenset({"", "nan", "na", "<na>", "n/a", "#n/a"})
"""Texts, in lower case, by which programs write an empty cell."""


def is_empty(text: str) -> bool:
    return text.strip().lower() in EMPTY


def class_texts(cells: Iterable[Any], what: str, place: Callable[[int], str]) -> list[str]:
    """A class per cell; whole numbers are written without a fraction, bytes are decoded.

    Args:
        what: the column or array, for messages.
        place: number of a cell -> where it is.

    Raises:
        DataError: an empty cell, a number with a fraction, or a list; says where.
    """
    return [_text(cell, what, place, number, True) for number, cell in enumerate(cells)]


def name_texts(cells: Iterable[Any], what: str, place: Callable[[int], str]) -> list[str]:
    """`class_texts` for names of domains and recordings, which may be any number."""
    return [_text(cell, what, place, number, False) for number, cell in enumerate(cells)]


def _text(cell: Any, what: str, place: Callable[[int], str], number: int, whole: bool) -> str:
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if whole and isinstance(cell, float) and math.isfinite(cell):
        if not cell.is_integer():
            raise DataError(
                f"{place(number)}: {what} is {cell!r}; classes are names or whole numbers, and nothing else is predicted here"
            )
        cell = int(cell)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or is_empty(str(cell)):
        raise DataError(f"{place(number)}: {what} is empty; fill it in or leave the row out")
    if not isinstance(cell, (str, int, float)):
        raise DataError(f"{place(number)}: {what} is {str(cell)[:60]!r} ({type(cell).__name__}); one name is needed")
    return str(cell)
