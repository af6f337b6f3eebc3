"""Missing values inside series (NaN), and ends of series that are shorter than others (NaN behind them)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

from pt_timeseries.options import Missing

Floats = NDArray[np.float32]


def stacked(series: Sequence[Any]) -> Floats:
    """(window, channel, longest): series (channel, step) of any length, NaN behind the end of each."""
    blocks = [np.asarray(one, np.float32) for one in series]
    if not blocks:
        return np.empty((0, 1, 0), np.float32)
    out = np.full((len(blocks), max(len(b) for b in blocks), max(b.shape[1] for b in blocks)), np.nan, np.float32)
    for row, block in enumerate(blocks):
        if len(block) != out.shape[1]:
            raise DataError(f"series {row} has {len(block)} channels, others have {out.shape[1]}")
        out[row, :, : block.shape[1]] = block
    return out


def lengths(values: Floats) -> NDArray[np.int64]:
    """(window,) steps up to the last one that has a value in any channel."""
    there: NDArray[np.bool_] = np.logical_not(np.isnan(values).all(axis=1))
    steps = values.shape[2]
    found: NDArray[np.int64] = np.where(there.any(axis=1), steps - there[:, ::-1].argmax(1), 0)
    return found


def filled(values: Floats, how: Missing, what: str) -> Floats:
    """(step, channel) without missing values: `interpolate` puts a straight line between neighbours in time, and the nearest value at
    the ends; `drop` leaves them to be dropped later.

    Raises:
        DataError: `how` is error and there are some, or a channel has no value at all; `what` is named.
    """
    gaps = np.isnan(values)
    if how == "drop" or not gaps.any():
        return values
    if how == "error":
        step, channel = np.argwhere(gaps)[0]
        raise DataError(
            f"{what} has {int(gaps.sum())} missing values (NaN; first: step {step}, channel {channel}); fill them in, or say --missing "
            "interpolate or drop"
        )
    out = values.copy()
    for channel in np.flatnonzero(gaps.any(0)):
        known = np.flatnonzero(~gaps[:, channel])
        if not len(known):
            raise DataError(
                f"{what} has no value in channel {channel}, so nothing to interpolate; leave it out with --missing drop"
            )
        out[:, channel] = np.interp(np.arange(len(values)), known, values[known, channel])
    return out
