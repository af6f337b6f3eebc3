"""From a path to records: read what is there, split off what is missing, and build what the tasks ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pt_core.data import stable_seed

from pt_audio.data.builder import Builder, Labelled
from pt_audio.data.clips import Clips, hold_out_clips
from pt_audio.data.dataset import AudioRecords, only
from pt_audio.data.folders import folder_clips
from pt_audio.data.generated import COUNTS, generated
from pt_audio.data.lines import from_lines
from pt_audio.data.places import kind_of, part_lines, part_tables
from pt_audio.data.records import parse_tasks
from pt_audio.data.sound import rate_notes
from pt_audio.data.tables import part_clips, table_clips
from pt_audio.options import DataOptions


def load_audio(spec: str, options: DataOptions, seed: int) -> dict[str, AudioRecords]:
    """Parts behind a path: a folder of class folders (with or without train/, val/, test/), a .csv or .tsv of labels (file, label, or
    file, onset, offset, label), a folder with such a table per part, a .jsonl of records, or `builtin:sounds`.

    Raises:
        DataError: nothing readable there; names the file or line.
    """
    tasks = parse_tasks(options.tasks)
    kind, path = kind_of(spec), Path(spec)
    if kind == "builtin":
        parts = {role: generated(min(count, options.limit or count), role) for role, count in COUNTS.items()}
        return _records(parts, tasks, options, seed, [])
    if kind == "lines":
        return _limited({"train": from_lines(path, options.stereo, options.audio_folder)}, options.limit, seed)
    if kind == "parts":
        files = part_lines(path)
        lines = {role: from_lines(file, options.stereo, options.audio_folder) for role, file in files.items()}
        return _limited(lines, options.limit, seed)
    if kind == "tables":
        return _make(part_clips(part_tables(path), options), tasks, options, seed)
    if kind == "folders":
        return _make(folder_clips(path, options.stereo), tasks, options, seed)
    return _make(table_clips(path, options), tasks, options, seed)


def _make(found: Mapping[str, Clips], tasks: Sequence[str], options: DataOptions, seed: int) -> dict[str, AudioRecords]:
    notes: list[str] = rate_notes([clip for clips, _, _ in found.values() for clip in clips])
    parts = dict(found)
    absent = [] if "val" in parts else ["val"] if "test" in parts else ["test", "val"]
    for role in absent:
        fraction = options.val_fraction if role == "val" else options.test_fraction
        if fraction > 0:
            size = len(parts["train"][0])
            parts["train"], parts[role] = hold_out_clips(parts["train"], fraction, seed)
            notes.append(f"no {role} part: {len(parts[role][0])} of {size} clips split off (stratified, seed {seed})")
    return _records(parts, tasks, options, seed, notes)


def _records(
    parts: Mapping[str, Clips], tasks: Sequence[str], options: DataOptions, seed: int, notes: Sequence[str]
) -> dict[str, AudioRecords]:
    """Records of every part, from its own clips only."""
    found: dict[str, AudioRecords] = {}
    for role, (sources, events, timed) in parts.items():
        labelled = [
            Labelled(number, source.name, tuple(own), timed)
            for number, (source, own) in enumerate(zip(sources, events, strict=True))
        ]
        builder = Builder(labelled, stable_seed(seed, role), options.ways, options.episode_shots)
        found[role] = AudioRecords(sources, builder.build(tasks), tags=tuple(builder.labels))
    found["train"] = replace(found["train"], notes=tuple(notes))
    return _limited(found, options.limit, seed)


def _limited(parts: dict[str, AudioRecords], limit: int | None, seed: int) -> dict[str, AudioRecords]:
    """At most `limit` records per part; classes where every record names one of a few."""
    for role, part in parts.items():
        if limit is not None and len(part) > limit:
            order = np.random.default_rng(stable_seed(seed, "limit", role) % 2**32).permutation(len(part))[:limit]
            parts[role] = only(part, sorted(order.tolist()))
    classed = all(record.label is not None for part in parts.values() for record in part.records)
    names = tuple(sorted({str(record.label) for record in parts["train"].records})) if classed else ()
    if len(names) < 2:
        return parts
    return {role: replace(part, classes=_names(part, names)) for role, part in parts.items()}


def _names(part: AudioRecords, names: tuple[str, ...]) -> tuple[str, ...]:
    own = {str(record.label) for record in part.records}
    return names if own <= set(names) else tuple(sorted(own))
