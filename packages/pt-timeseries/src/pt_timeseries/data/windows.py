"""Sliding windows over long recordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

from pt_timeseries.data.domains import Floats


def starts(steps: int, length: int, stride: int) -> list[int]:
    """First steps of the windows of `length` that lie wholly inside a recording of `steps`."""
    return list(range(0, steps - length + 1, stride))


def cut_windows(
    values: Floats, labels: Sequence[str] | None, length: int, stride: int, name: str
) -> tuple[Floats, list[str] | None]:
    """Windows of one recording.

    Args:
        values: (step, channel).
        labels: class per step, or None. A window gets the class that most of its steps have; of equal counts, the one that
            occurs first.
        length, stride: in steps.
        name: of the recording, for messages.

    Returns:
        (window, channel, length), and a label per window. A recording shorter than a window gives none.

    Raises:
        DataError: another number of labels than of steps.
    """
    if labels is not None and len(labels) != len(values):
        raise DataError(f"recording {name!r} has {len(values)} steps and {len(labels)} labels")
    found = starts(len(values), length, stride)
    if not found:
        return np.empty((0, values.shape[1], length), np.float32), None if labels is None else []
    cut = np.stack([values[start : start + length].T for start in found]).astype(np.float32)
    if labels is None:
        return cut, None
    array: NDArray[np.str_] = np.asarray(labels, dtype=str)
    return cut, [_majority(array[start : start + length]) for start in found]


def _majority(labels: NDArray[np.str_]) -> str:
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    best = np.flatnonzero(counts == counts.max())
    return str(names[best[np.argmin(first[best])]])
