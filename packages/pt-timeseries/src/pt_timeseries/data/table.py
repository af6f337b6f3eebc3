"""Long tables (CSV, TSV or Parquet): a row per time step with columns domain, series, time, channels ..., label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pt_core.errors import DataError, nearest

from pt_timeseries.data.domains import Domains, collect, sort_names
from pt_timeseries.data.frames import check_channels, check_filled, header, named, read_frame, without
from pt_timeseries.data.times import read_times
from pt_timeseries.data.windows import Cutter
from pt_timeseries.options import DataOptions

DOMAIN, SERIES, TIME, LABEL = (
    ("domain", "subject", "user"),
    ("series", "series_id", "id"),
    ("time", "t", "step"),
    ("label", "class", "y"),
)


def read_table(path: Path, options: DataOptions, prefix: str = "") -> Domains:
    """Read a long table. Series of exactly `window` steps are windows as they are; longer ones are cut, shorter ones left out with a
    note (or padded, see `--unequal`). Rows of a series are sorted by time; without a column of times they stay as they are. All further
    columns are channels, in their order.

    Raises:
        DataError: a missing column, a time that cannot be read, a channel that is not numeric or counts rows, an empty cell, or no channel.
    """
    names = [name for name in header(path) if name not in options.drop_columns]
    domain = _column(names, options.domain_column, DOMAIN, path, "domain")
    series = _column(names, options.series_column, SERIES, path, "series")
    time = _column(names, options.time_column, TIME, path, "time", optional=True)
    label = _column(names, options.label_column, LABEL, path, "label", optional=True)
    group = _column(names, options.group_column, (), path, "group", optional=True)
    notes: list[str] = []
    texts = [domain, series, label, group, time]
    frame = without(read_frame(path, texts), options.drop_columns, path, notes)
    if not len(frame):
        raise DataError(f"{path} has no rows below its header")
    owners, ids = (named(frame, column, what, path) for column, what in ((domain, "domain"), (series, "series")))
    rows = frame.groupby([owners, ids], sort=False).indices
    channels = [name for name in frame.columns if name not in texts]
    if not channels:
        raise DataError(f"{path} has no column left for channels; it has: {', '.join(map(str, frame.columns))}")
    check_channels(frame, channels, len(rows), path)
    times = None
    if time is not None:
        check_filled(frame, time, path)
        times = read_times(frame[time], options.time_format, f"column {time!r} of {path}")
    elif options.time_format is not None:
        raise DataError(f"--time-format is given, but {path} has no time column; name one with --time-column")
    classes = None if label is None else named(frame, label, "the class", path, True)
    recordings = ids if group is None else named(frame, group, "the recording", path)
    values = np.stack([frame[name].to_numpy(np.float32, na_value=np.nan) for name in channels], 1)
    cutter = Cutter(options, path.name, "series")
    for (owner, name), place in rows.items():
        order = place if times is None else times.order(place, name)
        own = None if classes is None else [classes[row] for row in order]
        cutter.add(f"{prefix}{owner}", name, values[order], own, recordings[order[0]])
    return collect(cutter.domains(sort_names), str(path), notes=[*notes, *cutter.notes()], options=options)


def _column(
    names: Sequence[str], asked: str | None, usual: tuple[str, ...], path: Path, what: str, optional: bool = False
) -> Any:
    if asked is not None and asked not in names:
        raise DataError(f"{path} has no column {asked!r}{nearest(asked, names)}; it has: {', '.join(names)}")
    found = asked or next((name for name in usual if name in names), None)
    if found is None and not optional:
        raise DataError(
            f"{path} has no {what} column ({', '.join(usual)}); it has: {', '.join(names)}; name one with --{what}-column"
        )
    return found
