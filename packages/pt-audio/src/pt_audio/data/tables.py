"""Clips of a table: what is heard in a file (`file,label`), or from when to when (`file,onset,offset,label`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pt_core.errors import DataError, nearest

from pt_audio.data.clips import Clips
from pt_audio.data.places import PARTS
from pt_audio.data.records import EMPTY
from pt_audio.data.sound import Source, open_file
from pt_audio.data.synth import Event
from pt_audio.options import DataOptions, Stereo

FILE = ("file", "filename", "file_name", "path", "audio", "fname")
LABEL = ("label", "class", "category", "target")
SPLIT = ("split", "part", "subset")


@dataclass
class _Part:
    """Clips of one part in the order of their first row."""

    sources: dict[str, Source] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)


def table_clips(table: Path, options: DataOptions) -> dict[str, Clips]:
    """Part -> clips of a CSV or TSV. A row is an event with times where there are columns onset and offset (seconds), else a label of the
    whole clip; a file may have several rows. Paths are relative to the table (or to `--audio-folder`). A column of parts (train, val, test)
    is followed.

    Raises:
        DataError: a missing column, an empty cell, a file on two sides, or times that lie outside the clip; names the row.
    """
    rows, names = _rows(table)
    file = _column(names, options.file_column, FILE, table, "file")
    label = _column(names, options.label_column, LABEL, table, "label")
    split = _column(names, options.split_column, SPLIT, table, "split", optional=True)
    timed = "onset" in names or "offset" in names
    for name in ("onset", "offset") if timed else ():
        if name not in names:
            raise DataError(f"{table} has no column {name!r}; it has: {', '.join(names)}")
    folder = table.parent if options.audio_folder is None else Path(options.audio_folder)
    parts: dict[str, _Part] = {}
    home: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{table}:{number}"
        for column in (file, label, *([split] if split else [])):
            if str(row[column]).strip().lower() in EMPTY:
                raise DataError(f"{where}: column {column!r} is empty ({row[column]!r}); fill it in or remove the row")
        role = _role(row[split], where) if split else "train"
        name = row[file].strip()
        if home.setdefault(name, role) != role:
            raise DataError(f"{where}: {name} is in the parts {home[name]} and {role}; a clip lies on one side")
        part = parts.setdefault(role, _Part())
        if name not in part.sources:
            part.sources[name] = _opened(folder / name, options.stereo, where)
        part.events.setdefault(name, []).append(_event(row, label, timed, part.sources[name], name, where))
    if not parts:
        raise DataError(f"{table} has no rows")
    if "train" not in parts:
        raise DataError(f"{table} has no row of the part train in column {split!r}")
    return {role: _clips(part, timed) for role, part in parts.items()}


def _rows(table: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows as texts of the file, and the names of the columns."""
    import pandas as pd

    try:
        separator = "\t" if table.suffix == ".tsv" else ","
        frame = pd.read_csv(table, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read as {table.suffix[1:].upper()} ({_line(error)})") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{table} has rows of more cells than its first line has names; give every column a name")
    found: list[dict[str, Any]] = frame.fillna("").to_dict("records")
    return found, [str(name) for name in frame.columns]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _column(
    names: Sequence[str], asked: str | None, usual: tuple[str, ...], table: Path, what: str, optional: bool = False
) -> Any:
    if asked is not None and asked not in names:
        raise DataError(f"{table} has no column {asked!r}{nearest(asked, names)}; it has: {', '.join(names)}")
    found = asked or next((name for name in usual if name in names), None)
    if found is None and not optional:
        raise DataError(f"{table} has no column {what!r}; it has: {', '.join(names)}; name one with --{what}-column")
    return found


def _role(text: str, where: str) -> str:
    role = PARTS.get(text.strip().lower())
    if role is None:
        raise DataError(f"{where}: part {text!r} is unknown{nearest(text, PARTS)}; use train, val and test")
    return role


def _opened(path: Path, stereo: Stereo, where: str) -> Source:
    try:
        return open_file(path, stereo)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _event(row: dict[str, str], label: str, timed: bool, source: Source, name: str, where: str) -> Event:
    text = " ".join(row[label].replace("_", " ").split()).lower()
    if not text:
        raise DataError(f"{where}: label {row[label]!r} names nothing")
    if not timed:
        return Event(text, 0.0, source.seconds)
    try:
        onset, offset = float(row["onset"]), float(row["offset"])
    except ValueError:
        onset, offset = float("nan"), float("nan")
    if not 0 <= onset < offset <= source.seconds + 0.5:
        raise DataError(f"{where}: {row['onset']} to {row['offset']} is no stretch of {name} ({source.seconds:.2f} s)")
    return Event(text, onset, offset)


def _clips(part: _Part, timed: bool) -> Clips:
    ordered = [tuple(sorted(dict.fromkeys(part.events[name]), key=lambda event: event.onset)) for name in part.sources]
    return list(part.sources.values()), ordered, timed
