"""Long tables (CSV or Parquet): a row per time step with columns domain, series, time, channels ..., label."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pt_core.errors import DataError, nearest

from pt_timeseries.data.domains import Domain, Domains, collect, sort_names
from pt_timeseries.data.windows import cut_windows
from pt_timeseries.options import DataOptions

DOMAIN, SERIES, TIME, LABEL = (
    ("domain", "subject", "user"),
    ("series", "series_id", "id"),
    ("time", "t", "step"),
    ("label", "class", "y"),
)


def read_table(path: Path, options: DataOptions, prefix: str = "") -> Domains:
    """Read a long table. Series of exactly `window` steps are windows as they are; longer ones are cut, shorter ones left out with a
    note. All further numeric columns are channels, in their order.

    Raises:
        DataError: a missing column, a channel that is not numeric, or no channel.
    """
    import pandas as pd

    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise DataError(f"{path} cannot be read as a table ({' '.join(str(error).split())[:120]})") from None
    domain = _column(frame, options.domain_column, DOMAIN, path, "domain")
    series = _column(frame, options.series_column, SERIES, path, "series")
    time = _column(frame, options.time_column, TIME, path, "time")
    label = _column(frame, options.label_column, LABEL, path, "label", optional=True)
    used = {domain, series, time, label, options.group_column}
    channels = [name for name in frame.columns if name not in used]
    if not channels:
        raise DataError(f"{path} has no column left for channels; it has: {', '.join(map(str, frame.columns))}")
    for name in channels:
        if frame[name].dtype.kind not in "fiu":
            raise DataError(f"{path}: column {name!r} is not numeric ({frame[name].dtype}); channels must be numbers")
    missing = [name for name in used if name is not None and frame[name].isna().any()]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} has empty cells")
    frame[time] = _ordered(frame[time], path)
    blocks: dict[str, list[Any]] = {}
    classes: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    short = 0
    for (owner, name), part in frame.groupby([domain, series], sort=False):
        part = part.sort_values(time, kind="stable")
        own = None if label is None else [str(value) for value in part[label]]
        values = part[channels].to_numpy(np.float32)
        block, found = cut_windows(values, own, options.window, options.stride, str(name))
        short += not len(block)
        key = f"{prefix}{owner}"
        blocks.setdefault(key, []).append(block)
        classes.setdefault(key, []).extend(found or [])
        group = str(name) if options.group_column is None else str(part[options.group_column].iloc[0])
        groups.setdefault(key, []).extend([group] * len(block))
    notes = [f"{short} series of {path.name} are shorter than a window of {options.window} steps"] if short else []
    items = [
        Domain(key, np.concatenate(blocks[key]), classes[key] if label is not None else None, groups[key])
        for key in sort_names(set(blocks))
    ]
    return collect(items, str(path), notes=notes)


def _ordered(times: Any, path: Path) -> Any:
    """The column of times as something that sorts as time goes: text does not ('10' comes before '9').

    Raises:
        DataError: it is text that is neither numbers nor dates in ISO 8601.
    """
    import pandas as pd

    if times.dtype.kind in "fiuM":
        return times
    text = times.astype(str)
    for read in (pd.to_numeric, partial(pd.to_datetime, format="ISO8601", utc=True)):
        found = read(text, errors="coerce")
        if not found.isna().any():
            return found
    raise DataError(
        f"{path}: the times in column {times.name!r} are neither numbers nor dates such as 2026-01-31T12:00, so their order is unknown"
    )


def _column(
    frame: Any, asked: str | None, usual: tuple[str, ...], path: Path, what: str, optional: bool = False
) -> Any:
    names = [str(name) for name in frame.columns]
    if asked is not None and asked not in names:
        raise DataError(f"{path} has no column {asked!r}{nearest(asked, names)}; it has: {', '.join(names)}")
    found = asked or next((name for name in usual if name in names), None)
    if found is None and not optional:
        raise DataError(
            f"{path} has no {what} column ({', '.join(usual)}); it has: {', '.join(names)}; name one with --{what}-column"
        )
    return found
