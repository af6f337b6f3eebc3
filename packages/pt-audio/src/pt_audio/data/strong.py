"""Clips of a table of strong labels: what is heard from when to when."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import DataError

from pt_audio.data.clips import Clips
from pt_audio.data.sound import Source, open_file
from pt_audio.data.synth import Event
from pt_audio.options import Stereo


def strong_labels(table: Path, stereo: Stereo) -> Clips:
    """Clips of a table with the columns file, onset, offset (seconds) and label; paths are relative to the table.

    Raises:
        DataError: a missing column, or times that lie outside the clip; names the row.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(table, dtype={"file": str, "label": str})
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read as CSV ({error})") from None
    for name in ("file", "onset", "offset", "label"):
        if name not in frame.columns:
            raise DataError(f"{table} has no column {name!r}; it has: {', '.join(map(str, frame.columns))}")
    sources: dict[str, Source] = {}
    events: dict[str, list[Event]] = {}
    for number, row in enumerate(frame.to_dict("records"), start=2):
        name = str(row["file"])
        if name not in sources:
            sources[name] = open_file(table.parent / name, stereo)
        try:
            onset, offset = float(row["onset"]), float(row["offset"])
        except (TypeError, ValueError):
            onset, offset = float("nan"), float("nan")
        if not 0 <= onset < offset <= sources[name].seconds + 0.5:
            raise DataError(
                f"{table}:{number}: {row['onset']} to {row['offset']} is no stretch of {name} ({sources[name].seconds:.2f} s)"
            )
        events.setdefault(name, []).append(Event(str(row["label"]).replace("_", " ").lower(), onset, offset))
    if not sources:
        raise DataError(f"{table} has no rows")
    ordered = [tuple(sorted(events[name], key=lambda event: event.onset)) for name in sources]
    return list(sources.values()), ordered, True
