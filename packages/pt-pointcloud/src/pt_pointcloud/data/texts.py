"""Points in text files: blanks, tabs, commas or semicolons between values, with or without a header, a count or comments in front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

COMMENTS = ("#", "//")
AXES = ("x", "y", "z")


def read_text(path: Path, shown: str) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """(table, columns of x, y and z). A header names them; without one they are the first three.

    Raises:
        DataError: a line in front that is neither numbers nor names of x, y, z; a count that is not that of the lines (Leica's .pts).
        ValueError: lines of different length, or values that are no numbers.
    """
    text = path.read_text(encoding="utf-8-sig")
    lines = [line.strip() for line in text.splitlines()]
    header = ""
    while lines and (not lines[0] or lines[0].startswith(COMMENTS)):
        header = lines.pop(0).lstrip("#/ \t") or header  # CloudCompare writes names behind //
    lines = [line for line in lines if line and not line.startswith(COMMENTS)]
    if lines and _count(lines[0]) is not None and len(lines) > 1 and len(_cells(lines[1], _separator(lines[1]))) > 1:
        count, lines = _count(lines[0]), lines[1:]
        if count != len(lines):
            raise DataError(
                f"cloud {shown!r} announces {count} points and has {len(lines)}; it is cut, or has other lines"
            )
    axes = _axes(header)
    if lines and not _numbers(lines[0]):
        axes = _axes(lines[0])
        if axes is None:
            raise DataError(
                f"cloud {shown!r}: the first line {lines[0][:60]!r} holds no numbers and does not name x, y and z"
            )
        lines = lines[1:]
    if not lines:
        raise DataError(f"cloud {shown!r} has no points")
    separator = _separator(lines[0])
    rows: Any = lines
    if separator == ";":
        rows = [line.replace(",", ".").rstrip("; ") for line in lines]  # beside semicolons a comma is a decimal point
    elif separator == ",":
        rows = [line.rstrip(", ") for line in lines]
    table: NDArray[np.float64] = np.loadtxt(rows, delimiter=separator, ndmin=2)
    if axes is not None and max(axes) >= table.shape[1]:
        raise DataError(f"cloud {shown!r} has {table.shape[1]} columns, its header names more")
    return table, axes or (0, 1, 2)


def _separator(line: str) -> str | None:
    return next((mark for mark in (";", ",") if mark in line), None)


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip() for cell in line.split(separator)]


def _count(line: str) -> int | None:
    return int(line) if line.isascii() and line.isdecimal() else None


def _numbers(line: str) -> bool:
    separator = _separator(line)
    cells = [cell for cell in _cells(line, separator) if cell]
    try:
        return bool([float(cell.replace(",", ".") if separator == ";" else cell) for cell in cells])
    except ValueError:
        return False


def _axes(line: str) -> tuple[int, int, int] | None:
    names = [name.strip("\"'[]()").lower() for name in _cells(line, _separator(line))]
    if not all(names.count(axis) == 1 for axis in AXES):
        return None
    first, second, third = (names.index(axis) for axis in AXES)
    return first, second, third
