"""Clips of a table: what is heard in a file (`file,label`), from when to when (`file,onset,offset,label`), or in a part of a file
(`file,start,end,label`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pt_core.errors import DataError, nearest

from pt_audio.data.clips import Clips
from pt_audio.data.places import PARTS
from pt_audio.data.records import EMPTY
from pt_audio.data.sound import Source
from pt_audio.data.stretches import Reader, Times, reader, seconds
from pt_audio.data.synth import Event
from pt_audio.options import DataOptions

FILE = ("file", "filename", "file_name", "path", "audio", "fname")
LABEL = ("label", "class", "category", "target")
SPLIT = ("split", "part", "subset")
START = ("start", "start_time", "start_seconds")
END = ("end", "end_time", "end_seconds")
Clip = tuple[str, Times]
"""A file, and which part of it."""


@dataclass
class _Part:
    """Clips of one part in the order of their first row."""

    sources: dict[Clip, Source] = field(default_factory=dict)
    events: dict[Clip, list[Event]] = field(default_factory=dict)


def part_clips(tables: Mapping[str, Path], options: DataOptions) -> dict[str, Clips]:
    """Part -> clips of a table for each part, of clips beside it or in a folder of its name.

    Raises:
        DataError: as `table_clips`, a column of parts besides, or a clip in two tables.
    """
    if options.split_column is not None:
        raise DataError(
            f"--split-column {options.split_column}: {next(iter(tables.values())).parent} has a table for each part"
        )
    found = {role: table_clips(table, options, role)[role] for role, table in tables.items()}
    home: dict[tuple[Path | None, int, int], str] = {}
    for role, (sources, _, _) in found.items():
        for source in sources:
            if home.setdefault((source.path, source.start, source.samples), role) != role:
                other = home[source.path, source.start, source.samples]
                raise DataError(
                    f"{tables[role]}: {source.name} is in the parts {other} and {role}; a clip lies on one side"
                )
    return found


def table_clips(table: Path, options: DataOptions, only: str | None = None) -> dict[str, Clips]:
    """Part -> clips of a CSV or TSV. A row is an event with times where there are columns onset and offset (seconds), else a label of the
    whole clip; a file may have several rows. Columns start and end take a part of the file as the
    clip (but for `--whole-files`). Paths are relative to the table (or to `--audio-folder`). A column of parts is followed.

    Args:
        only: the part that all rows are of, where the table is one of several.

    Raises:
        DataError: a missing column, an empty cell, a file on two sides, or times that lie outside the clip; names the row.
    """
    rows, names = _rows(table)
    file = _column(names, options.file_column, FILE, table, "file")
    label = _column(names, options.label_column, LABEL, table, "label")
    split = None if only else _column(names, options.split_column, SPLIT, table, "split", optional=True)
    timed = "onset" in names or "offset" in names
    for name in ("onset", "offset") if timed else ():
        if name not in names:
            raise DataError(f"{table} has no column {name!r}; it has: {', '.join(names)}")
    start, end = (
        None if options.whole_files else next((n for n in usual if n in names), None) for usual in (START, END)
    )
    if timed and (start or end):
        raise DataError(
            f"{table} has the columns onset and offset of events, and {start or end!r} of parts of files: with which do the times "
            "begin? Remove one kind, or say --whole-files to leave the parts out"
        )
    opened = reader(options.stereo)
    folder = table.parent if options.audio_folder is None else Path(options.audio_folder)
    if only and options.audio_folder is None and rows and not (folder / rows[0][file].strip()).is_file():
        own = folder / table.stem
        folder = own if (own / rows[0][file].strip()).is_file() else folder
    parts: dict[str, _Part] = {}
    home: dict[Clip, str] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{table}:{number}"
        for column in (file, label, *([split] if split else [])):
            if str(row[column]).strip().lower() in EMPTY:
                raise DataError(f"{where}: column {column!r} is empty ({row[column]!r}); fill it in or remove the row")
        role = _role(row[split], where) if split else only or "train"
        name = row[file].strip()
        times = tuple(seconds(row[column].strip(), column, where) if column else None for column in (start, end))
        clip: Clip = (name, times)  # type: ignore[assignment]
        if home.setdefault(clip, role) != role:
            raise DataError(f"{where}: {name} is in the parts {home[clip]} and {role}; a clip lies on one side")
        part = parts.setdefault(role, _Part())
        if clip not in part.sources:
            part.sources[clip] = _opened(opened, folder / name, clip[1], where)
        part.events.setdefault(clip, []).append(_event(row, label, timed, part.sources[clip], name, where))
    if not parts:
        raise DataError(f"{table} has no rows")
    if "train" not in parts and only is None:
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


def _opened(opened: Reader, path: Path, times: Times, where: str) -> Source:
    try:
        return opened(path, times, where)
    except DataError as error:
        told = str(error)
        if not told.startswith(where):
            raise DataError(f"{where}: {told}") from None
        raise DataError(f"{told}; where the times are not of this file, --whole-files leaves them out") from None


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
