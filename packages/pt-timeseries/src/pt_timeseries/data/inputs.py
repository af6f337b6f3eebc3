"""Unlabelled windows for prediction: files, folders, or arrays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError

from pt_timeseries.data.dataset import WindowDataset, windows_of
from pt_timeseries.data.domains import Domain, collect
from pt_timeseries.data.gaps import stacked
from pt_timeseries.data.sources import read
from pt_timeseries.options import DataOptions, Missing, ReadOptions, Unequal


def input_windows(
    items: Sequence[Any] | Any,
    length: int | None,
    normalise: str = "none",
    reading: ReadOptions | None = None,
    unequal: Unequal = "error",
    missing: Missing = "error",
) -> WindowDataset:
    """Windows in the order given. Files are read as in `fit` (labels are ignored, long recordings are cut without overlap); arrays and
    tensors are (channel, step), or (window, channel, step).

    Args:
        items: one item or a list of them.
        length: steps of a window; None cuts long recordings as `fit` does by default.
        normalise: `domain` scales every file's domains, and all arrays together, by their own statistics.
        reading: how files are read.
        unequal, missing: as in the training of the run; windows with missing values are never dropped without a word.

    Raises:
        DataError: nothing there, or an item that cannot be read.
    """
    many = items if isinstance(items, (list, tuple)) else [items]
    options = DataOptions(
        **vars(reading or ReadOptions()), unequal=unequal, missing="error" if missing == "drop" else missing
    )
    if length is not None:
        options = replace(options, window=length, stride=length)
    settled = length if unequal != "error" else None
    domains: list[Domain] = []
    arrays: list[Any] = []
    notes: list[str] = []
    for item in many:
        if isinstance(item, (str, Path)):
            # Cropped below, together with the others: a file by itself would be cropped to its own shortest series.
            own = replace(options, unequal="pad") if unequal == "crop" else options
            there = read(str(item), own, 0)
            notes += there.notes
            domains += [Domain(f"{item}:{d.name}", d.values, None) for d in there.items]
        else:
            arrays += list(_array(item))
    if arrays:
        shapes = {window.shape for window in arrays}
        if len({shape[0] for shape in shapes}) > 1 or (len(shapes) > 1 and unequal == "error"):
            raise DataError(f"the windows have different shapes: {', '.join(map(str, sorted(shapes)))}")
        domains.append(Domain("window", stacked(arrays), None))
    if not domains:
        raise DataError("no input is given")
    found = collect(domains, "the input", notes=notes, options=options, length=settled)
    named = [Domain(d.name, d.values, None, [str(row) for row in range(len(d))]) for d in found.items]
    return replace(windows_of(named, (), normalise, unequal, missing), notes=tuple(found.notes))


def _array(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu()
        item = item.float() if item.is_floating_point() else item  # NumPy has no bfloat16
    try:
        values = np.asarray(item)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"an input of type {type(item).__name__} is no array ({' '.join(str(error).split())[:80]})"
        ) from None
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3):
        raise DataError(
            f"an input is {values.dtype} of shape {values.shape}; expected numbers (channel, step) or (window, channel, step)"
        )
    if 0 in values.shape:
        raise DataError(f"an input is empty: shape {values.shape}")
    values = values.astype(np.float32)
    return values[None] if values.ndim == 2 else values
