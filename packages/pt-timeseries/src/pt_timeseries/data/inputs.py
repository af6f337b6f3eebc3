"""Unlabelled windows for prediction: files, folders, or arrays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError

from pt_timeseries.data.dataset import WindowDataset, windows_of
from pt_timeseries.data.domains import Domain, collect
from pt_timeseries.data.sources import read
from pt_timeseries.options import DataOptions


def input_windows(items: Sequence[Any] | Any, length: int | None, normalise: str = "none") -> WindowDataset:
    """Windows in the order given. Files are read as in `fit` (labels are ignored, long recordings are cut without overlap); arrays and
    tensors are (channel, step), or (window, channel, step).

    Args:
        items: one item or a list of them.
        length: steps of a window; None cuts long recordings as `fit` does by default.
        normalise: `domain` scales every file's domains, and all arrays together, by their own statistics.

    Raises:
        DataError: nothing there, or an item that cannot be read.
    """
    many = items if isinstance(items, (list, tuple)) else [items]
    domains: list[Domain] = []
    arrays: list[Any] = []
    for item in many:
        if isinstance(item, (str, Path)):
            options = DataOptions() if length is None else DataOptions(window=length, stride=length)
            domains += [Domain(f"{item}:{d.name}", d.values, None) for d in read(str(item), options, 0).items]
        else:
            arrays += list(_array(item))
    if arrays:
        shapes = {window.shape for window in arrays}
        if len(shapes) > 1:
            raise DataError(f"the windows have different shapes: {', '.join(map(str, sorted(shapes)))}")
        domains.append(Domain("window", np.stack(arrays), None))
    if not domains:
        raise DataError("no input is given")
    found = collect(domains, "the input")
    named = [Domain(d.name, d.values, None, [str(row) for row in range(len(d))]) for d in found.items]
    return windows_of(named, (), normalise)


def _array(item: Any) -> Any:
    values = item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3):
        raise DataError(
            f"an input is {values.dtype} of shape {values.shape}; expected numbers (channel, step) or (window, channel, step)"
        )
    values = values.astype(np.float32)
    return values[None] if values.ndim == 2 else values
