"""Audio data: folders of labelled clips, tables of strong labels, JSON lines of records, and generated sounds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt
from pt_core.data import Batch, stable_seed
from pt_core.errors import DataError

from pt_audio import synth
from pt_audio.records import Builder, Labelled, Record, parse_line, parse_tasks, read_lines
from pt_audio.sound import SUFFIXES, Source, Stereo, from_array, open_file, rate_notes
from pt_audio.synth import Event

if TYPE_CHECKING:
    from pt_audio.bound import BoundRecords
    from pt_audio.encoders import AudioEncoder
    from pt_audio.models import LanguageModel, TextModel

BUILTIN = {"train": 240, "val": 32, "test": 60}
"""Clips per part of builtin:sounds."""
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class DataOptions:
    """How audio data are read."""

    tasks: tuple[str, ...] = ("tagging",)
    """Records to make from labelled clips, of: tagging, captioning, question, localisation, retrieval, few_shot, reasoning."""
    ways: Annotated[int, Ge(2)] = 5
    """Classes of a few-shot episode."""
    episode_shots: Annotated[int, Ge(1)] = 1
    """Clips per class in a few-shot episode."""
    stereo: Stereo = "error"
    """What to do with several channels: refuse, average, or take one."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training clips that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many records of every part (the first ones of a seeded shuffle)."""
    recompute: bool = False
    """Checkpoint every block of the language model while training: less memory, one more forward pass."""


@dataclass(frozen=True)
class AudioRecords:
    """Clips and what is asked about them; `bind` makes it what a method reads.

    Attributes:
        clips: all clips of this part.
        records: questions about them.
        classes: names of the classes, where every record's answer names one; else ().
        tags: names of all labels that occur, for judging tagging answers.
    """

    clips: Sequence[Source]
    records: Sequence[Record]
    classes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> Sequence[str]:
        return [record.name for record in self.records]

    @property
    def labels(self) -> Sequence[int] | None:
        if not self.classes:
            return None
        place = {name: number for number, name in enumerate(self.classes)}
        return [place[str(record.label)] for record in self.records]

    @property
    def groups(self) -> Sequence[str]:
        """Records that share clips, also by way of other records, are one group: no clip lies on both sides of a split."""
        parent: dict[int, int] = {}

        def root(clip: int) -> int:
            while parent.setdefault(clip, clip) != clip:
                clip = parent[clip]
            return clip

        for record in self.records:
            for clip in record.clips[1:]:
                parent[root(clip)] = root(record.clips[0])
        return [self.clips[root(record.clips[0])].name for record in self.records]

    def relabel(self, names: Sequence[str]) -> AudioRecords:
        """The same records with indices into other class names.

        Raises:
            DataError: a class that is not among `names`.
        """
        unknown = sorted({str(record.label) for record in self.records} - set(names))
        if unknown:
            raise DataError(f"class {unknown[0]!r} does not occur in the training data; known: {', '.join(names)}")
        return replace(self, classes=tuple(names))

    def identity(self) -> str:
        total = hashlib.sha256(repr((self.classes, self.tags)).encode())
        digests = [clip.digest() for clip in self.clips]
        for record in self.records:
            content = ([digests[i] for i in record.clips], record.texts, record.answer, record.task, record.label)
            total.update(repr(content).encode())
        return total.hexdigest()

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        raise TypeError("bind the data to the backbones first")

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        raise TypeError("bind the data to the backbones first")

    def bind(
        self, encoder: AudioEncoder, text: TextModel, lm: LanguageModel, tags: Sequence[str], limits: Any
    ) -> BoundRecords:
        """Tokens and features for these backbones."""
        from pt_audio.bound import BoundRecords

        return BoundRecords(self, encoder, text, lm, tuple(tags), limits)


def load_audio(spec: str, options: DataOptions, seed: int) -> dict[str, AudioRecords]:
    """Parts behind a path: a folder of class folders (with or without train/, val/, test/), a .csv of strong labels (file, onset, offset,
    label), a .jsonl of records, or `builtin:sounds`.

    Raises:
        DataError: nothing readable there; names the file or line.
    """
    tasks = parse_tasks(options.tasks)
    if spec.startswith("builtin:"):
        if spec != "builtin:sounds":
            raise DataError(f"no built-in data {spec!r}; known: builtin:sounds")
        parts = {role: generated(min(count, options.limit or count), role) for role, count in BUILTIN.items()}
        return _records(parts, tasks, options, seed, [])
    path = Path(spec)
    if path.suffix == ".jsonl":
        return _limited({"train": from_lines(path, options.stereo)}, options.limit, seed)
    if path.is_dir():
        lines = {PARTS[file.stem]: file for file in sorted(path.glob("*.jsonl")) if file.stem in PARTS}
        if "train" in lines:
            return _limited(
                {role: from_lines(file, options.stereo) for role, file in lines.items()}, options.limit, seed
            )
        found = folder_clips(path, options.stereo)
    elif path.suffix == ".csv":
        found = {"train": strong_labels(path, options.stereo)}
    else:
        raise DataError(
            f"{spec} is neither a folder, nor a .csv of strong labels, nor a .jsonl of records, nor builtin:sounds"
        )
    return _make(found, tasks, options, seed)


Clips = tuple[list[Source], list[tuple[Event, ...]], bool]
"""Sources, their events, and whether the events have times."""


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


def hold_out_clips(clips: Clips, fraction: float, seed: int) -> tuple[Clips, Clips]:
    """(kept, held out) clips, stratified by their first label where every class is large enough, else at random."""
    from pt_core.run.data.sampling import stratified_split

    sources, events, timed = clips
    names = sorted({found[0].label for found in events})
    labels = [names.index(found[0].label) for found in events]
    if min(Counter(labels).values()) < 2:
        labels, names = [0] * len(labels), ["clip"]
    kept, held = stratified_split(labels, fraction, seed, None, names)
    return tuple(([sources[i] for i in rows], [events[i] for i in rows], timed) for rows in (kept, held))  # type: ignore[return-value]


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


def only(part: AudioRecords, rows: Sequence[int]) -> AudioRecords:
    """Some records, and the clips that they use."""
    records = [part.records[i] for i in rows]
    used = sorted({clip for record in records for clip in record.clips})
    place = {clip: number for number, clip in enumerate(used)}
    moved = [replace(record, clips=tuple(place[clip] for clip in record.clips)) for record in records]
    return replace(part, clips=[part.clips[clip] for clip in used], records=moved)


def _names(part: AudioRecords, names: tuple[str, ...]) -> tuple[str, ...]:
    own = {str(record.label) for record in part.records}
    return names if own <= set(names) else tuple(sorted(own))


def folder_clips(folder: Path, stereo: Stereo) -> dict[str, Clips]:
    """Part -> clips of a folder whose subfolders are classes, or train/val/test with classes below them.

    Raises:
        DataError: no audio file below a class folder.
    """
    parts = {PARTS[sub.name]: sub for sub in sorted(folder.iterdir()) if sub.is_dir() and sub.name in PARTS}
    if "train" not in parts:
        parts = {"train": folder}
    return {role: _class_folders(sub, stereo) for role, sub in parts.items()}


def _class_folders(folder: Path, stereo: Stereo) -> Clips:
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{folder} has no audio files in class folders ({', '.join(SUFFIXES)}): expected FOLDER/CLASS/FILE"
        )
    sources = [open_file(file, stereo) for file in files]
    labels = [file.parent.name.replace("_", " ").lower() for file in files]
    return sources, [(Event(label, 0.0, s.seconds),) for label, s in zip(labels, sources, strict=True)], False


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


def from_lines(path: Path, stereo: Stereo) -> AudioRecords:
    """Records of a JSONL file; paths are relative to it."""
    places: dict[Path, int] = {}
    clips: list[Source] = []
    records = []
    for where, content in read_lines(path):
        files, rest = parse_line(content, where)
        for file in files:
            if path.parent / file not in places:
                places[path.parent / file] = len(clips)
                clips.append(open_file(path.parent / file, stereo))
        numbers = tuple(places[path.parent / file] for file in files)
        name = str(content.get("id", where))
        records.append(Record(name, numbers, rest["texts"], rest["answer"], rest["task"], rest["label"]))
    tags = sorted({record.label for record in records if record.label is not None})
    return AudioRecords(clips, records, tags=tuple(tags), notes=tuple(rate_notes(clips)))


@cache
def generated(count: int, role: str) -> Clips:
    """Generated clips of 4 to 9.5 s; every second one holds a single event. Kept, as they take a while."""
    sources, events = [], []
    for number in range(count):
        rng = np.random.default_rng(stable_seed("sounds", role, number) % 2**32)
        length = float(rng.uniform(4, 9.5))
        alone = [synth.LABELS[number // 2 % len(synth.LABELS)]]
        clip = synth.random_clip(rng, length) if number % 2 else synth.clip(rng, length, alone)
        sources.append(from_array(clip.wave, synth.RATE, f"{role}-{number:04d}"))
        events.append(clip.events)
    return sources, events, True
