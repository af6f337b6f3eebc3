"""Sliding windows over long recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

from pt_timeseries.data.domains import Domain, Floats
from pt_timeseries.data.gaps import filled
from pt_timeseries.options import DataOptions


def starts(steps: int, length: int, stride: int) -> list[int]:
    """First steps of the windows of `length` that lie wholly inside a recording of `steps`."""
    return list(range(0, steps - length + 1, stride))


def cut_windows(
    values: Floats, labels: Sequence[str] | None, length: int, stride: int, name: str, pad: bool = False
) -> tuple[Floats, list[str] | None]:
    """Windows of one recording.

    Args:
        values: (step, channel).
        labels: class per step, or None. A window gets the class that most of its steps have; of equal counts, the one that
            occurs first.
        length, stride: in steps.
        name: of the recording, for messages.
        pad: a recording shorter than a window gives one window, NaN behind its end.

    Returns:
        (window, channel, length), and a label per window. A recording shorter than a window gives none without `pad`.

    Raises:
        DataError: another number of labels than of steps.
    """
    if labels is not None and len(labels) != len(values):
        raise DataError(f"recording {name!r} has {len(values)} steps and {len(labels)} labels")
    found = starts(len(values), length, stride)
    if not found and pad and len(values):
        whole = np.full((1, values.shape[1], length), np.nan, np.float32)
        whole[0, :, : len(values)] = values.T
        return whole, None if labels is None else [_majority(np.asarray(labels, dtype=str))]
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


class Cutter:
    """Recordings of several domains, cut one after another.

    Args:
        options: window, stride, and what happens to missing values and short recordings.
        source: the file, for messages.
        kind: what a recording is called in messages.
    """

    def __init__(self, options: DataOptions, source: str, kind: str) -> None:
        self.options, self.source, self.kind = options, source, kind
        self.blocks: dict[str, list[Floats]] = {}
        self.labels: dict[str, list[str] | None] = {}
        self.groups: dict[str, list[str]] = {}
        self.short = self.dropped = 0

    def add(self, domain: str, name: str, values: Floats, labels: Sequence[str] | None, group: str) -> None:
        """A recording (step, channel) of a domain.

        Raises:
            DataError: missing values that are to be refused, or a channel without any value.
        """
        options = self.options
        values = filled(values, options.missing, f"domain {domain!r} of {self.source}, {self.kind} {name!r},")
        block, found = cut_windows(values, labels, options.window, options.stride, name, options.unequal == "pad")
        self.short += not len(block)
        if options.missing == "drop":
            steps = min(len(values), options.window)
            whole = [bool(np.isfinite(window[:, :steps]).all()) for window in block]
            self.dropped += whole.count(False)
            block = block[np.array(whole, dtype=bool)]
            found = None if found is None else [label for label, keep in zip(found, whole, strict=True) if keep]
        self.blocks.setdefault(domain, []).append(block)
        self.groups.setdefault(domain, []).extend([group] * len(block))
        own = self.labels.setdefault(domain, None if found is None else [])
        if own is not None:
            own.extend(found or [])

    def domains(self, ordered: Callable[[set[str]], Iterable[str]]) -> list[Domain]:
        return [
            Domain(name, np.concatenate(self.blocks[name]), self.labels[name], self.groups[name])
            for name in ordered(set(self.blocks))
        ]

    def notes(self) -> list[str]:
        """What was left out."""
        found = []
        if self.short:
            found.append(
                f"{self.short} {self.kind} of {self.source} are shorter than a window of {self.options.window} steps"
            )
        if self.dropped:
            found.append(f"{self.dropped} windows of {self.source} with missing values are left out")
        return found
