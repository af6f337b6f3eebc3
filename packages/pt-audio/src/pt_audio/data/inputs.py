"""What `predict` reads: audio files with a question, several clips with interleaved texts, or JSON lines of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_core.errors import DataError, UserError

from pt_audio.data import wording as say
from pt_audio.data.dataset import AudioRecords
from pt_audio.data.lines import from_lines
from pt_audio.data.records import Record
from pt_audio.data.sound import SUFFIXES, Source, from_array, open_file, rate_notes
from pt_audio.options import Stereo


def input_records(items: Sequence[Any], ask: Sequence[str], stereo: Stereo) -> AudioRecords:
    """Records without answers.

    Args:
        items: paths of audio files, of folders of them, or of .jsonl files of records; or arrays: (samples, rate) pairs, as torchaudio
            gives them, or mappings with `wave` and `rate`, or `array` and `sampling_rate`, as the Hub's data sets give them, and
            optionally `layout` (see `from_array`).
        ask: no text: what are the sound events? One text: it is asked of every clip. K texts: the items are K clips of one input,
            and text k stands behind clip k.

    Raises:
        DataError: nothing given, an unreadable file, clips and texts of different number.
    """
    if any(not text.strip() for text in ask):
        raise UserError("--ask is empty; say what is asked, or leave it out")
    lines = [item for item in items if isinstance(item, (str, Path)) and str(item).endswith(".jsonl")]
    if lines:
        if ask or len(items) > 1:
            raise UserError(f"{lines[0]} holds records with their own texts; give it alone and without --ask")
        return from_lines(Path(lines[0]), stereo)
    clips = [clip for number, item in enumerate(items) for clip in _clips(item, number, stereo)]
    if not clips:
        raise DataError("no audio is given")
    notes = tuple(rate_notes(clips))
    if len(ask) > 1:
        if len(clips) != len(ask):
            raise UserError(
                f"{len(clips)} clips and {len(ask)} texts: one input of several clips needs one --ask per clip"
            )
        name = " + ".join(clip.name for clip in clips)
        return AudioRecords(clips, [Record(name, tuple(range(len(clips))), tuple(ask))], notes=notes)
    text = ask[0] if ask else say.TAGGING
    return AudioRecords(clips, [Record(clip.name, (n,), (text,)) for n, clip in enumerate(clips)], notes=notes)


def _clips(item: Any, number: int, stereo: Stereo) -> list[Source]:
    if isinstance(item, (str, Path)):
        path = Path(item)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not files:
                raise DataError(f"{path} has no audio files ({', '.join(SUFFIXES)})")
            return [open_file(file, stereo) for file in files]
        return [open_file(path, stereo)]
    name = f"clip-{number}"
    if isinstance(item, Mapping):
        for wave, rate in (("wave", "rate"), ("array", "sampling_rate")):
            if {wave, rate} <= set(item):
                return [from_array(item[wave], item[rate], name, stereo, str(item.get("layout", "auto")))]
    if isinstance(item, tuple) and len(item) == 2:
        return [from_array(item[0], item[1], name, stereo)]
    raise DataError(
        f"an input is of type {type(item).__name__}; give paths, (samples, rate) pairs, or mappings with wave and rate (or array and "
        "sampling_rate)"
    )
