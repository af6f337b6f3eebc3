"""Records as JSON lines, in the form of the published code; paths are relative to their file. `start` and `end`
(seconds) take a part of a clip's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pt_core.errors import DataError, nearest

from pt_audio.data.dataset import AudioRecords
from pt_audio.data.records import EMPTY, TASKS, Record
from pt_audio.data.sound import Source, rate_notes
from pt_audio.data.stretches import Times, reader, seconds
from pt_audio.options import Stereo

KEYS = ("audio", "text_input", "text_output", "task", "label", "id", "start", "end")


def from_lines(path: Path, stereo: Stereo, folder: str | None = None) -> AudioRecords:
    """Records of a JSONL file; paths are relative to it, or to `folder`."""
    home = path.parent if folder is None else Path(folder)
    opened = reader(stereo)
    places: dict[tuple[str, Times], int] = {}
    clips: list[Source] = []
    records = []
    for where, content in read_lines(path):
        files, rest = parse_line(content, where)
        parts = list(zip(files, rest["times"], strict=True))
        for file, times in parts:
            if (file, times) not in places:
                places[file, times] = len(clips)
                clips.append(opened(home / file, times, where))
        numbers = tuple(places[part] for part in parts)
        name = str(content.get("id", where))
        records.append(Record(name, numbers, rest["texts"], rest["answer"], rest["task"], rest["label"]))
    tags = sorted({record.label for record in records if record.label is not None})
    return AudioRecords(clips, records, tags=tuple(tags), notes=tuple(rate_notes(clips)))


def parse_line(content: Any, where: str) -> tuple[list[str], Mapping[str, Any]]:
    """(paths, rest) of a JSON record; `audio` and `text_input` become lists of equal length.

    Raises:
        DataError: a missing or unknown key, a wrong type, clips and texts of different number, an empty answer, a label that is no name.
    """
    if not isinstance(content, Mapping):
        raise DataError(f"{where} is not a JSON object")
    unknown = sorted(set(content) - set(KEYS))
    if unknown:
        raise DataError(
            f"{where} has an unknown key {unknown[0]!r}{nearest(unknown[0], KEYS)}; known: {', '.join(KEYS)}"
        )
    if "audio" not in content or "text_input" not in content:
        raise DataError(f"{where} needs 'audio' and 'text_input'")
    audio, texts = ([v] if isinstance(v, str) else v for v in (content["audio"], content["text_input"]))
    for name, value in (("audio", audio), ("text_input", texts)):
        if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
            raise DataError(f"{where}: {name!r} must be a text or a list of texts")
    if len(audio) != len(texts):
        raise DataError(f"{where} has {len(audio)} clips and {len(texts)} texts; give one text per clip")
    answer, task = content.get("text_output"), content.get("task", "question")
    if answer is not None and not isinstance(answer, str):
        raise DataError(f"{where}: 'text_output' must be a text, it is {str(answer)[:60]!r}")
    if answer is not None and not answer.strip():
        raise DataError(f"{where} has an empty answer ('text_output'): nothing could be learned from it")
    label, ident = content.get("label"), content.get("id")
    if label is not None and (
        not isinstance(label, (str, int)) or isinstance(label, bool) or str(label).strip().lower() in EMPTY
    ):
        raise DataError(f"{where}: 'label' must be the name of one class, it is {str(label)[:60]!r}")
    if ident is not None and (not isinstance(ident, (str, int)) or isinstance(ident, bool)):
        raise DataError(f"{where}: 'id' must be a text or a whole number, it is {str(ident)[:60]!r}")
    for text in (*audio, *texts, answer or "", str(label)):
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            shown = text[:40].encode("ascii", "backslashreplace").decode()
            raise DataError(f"{where} has half of a surrogate pair, which is no character, in '{shown}'")
    if not isinstance(task, str) or task not in TASKS:
        raise DataError(f"{where} has task {task!r}{nearest(str(task), TASKS)}; known: {', '.join(TASKS)}")
    return audio, {
        "texts": tuple(texts),
        "times": _times(content, len(audio), where),
        "answer": answer,
        "task": task,
        "label": None if label is None else str(label),
    }


def _times(content: Mapping[str, Any], count: int, where: str) -> list[Times]:
    """(start, end) of every clip: a number of seconds for the one clip, or a list of as many as there are clips."""
    sides: dict[str, list[float | None]] = {}
    for name in ("start", "end"):
        given = content.get(name)
        values = given if isinstance(given, list) else [given] * count if given is None or count == 1 else [given]
        if len(values) != count:
            raise DataError(
                f"{where} has {count} clips and {len(values)} {name!r}; give one per clip (null: the file's own)"
            )
        if any(isinstance(value, str) for value in values):
            raise DataError(f"{where}: {name!r} must be a number of seconds, it is {str(given)[:60]!r}")
        sides[name] = [seconds(value, name, where) for value in values]
    return list(zip(sides["start"], sides["end"], strict=True))


def read_lines(path: Path) -> list[tuple[str, Any]]:
    """(place, object) of every line of a JSONL file.

    Raises:
        DataError: unreadable, not JSON, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append((f"{path}:{number}", json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number} is not JSON ({getattr(error, 'msg', str(error))[:80]})") from None
    if not found:
        raise DataError(f"{path} holds no record")
    return found
