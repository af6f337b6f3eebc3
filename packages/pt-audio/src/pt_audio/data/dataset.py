"""Clips and what is asked about them, before backbones are known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pt_core.data import Batch
from pt_core.errors import DataError

from pt_audio.adapters.encoders import AudioEncoder
from pt_audio.adapters.language_model import LanguageModel
from pt_audio.adapters.text_model import TextModel
from pt_audio.data.bound import BoundRecords
from pt_audio.data.records import Record
from pt_audio.data.sound import Source


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
        """Records that share clips, also by way of other records, are one group: no clip lies on both sides of a split, and no two parts
        of a file."""
        first: dict[Any, int] = {}
        parent = {n: first.setdefault(clip.path or n, n) for n, clip in enumerate(self.clips)}

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
        return BoundRecords(self, encoder, text, lm, tuple(tags), limits)


def only(part: AudioRecords, rows: Sequence[int]) -> AudioRecords:
    """Some records, and the clips that they use."""
    records = [part.records[i] for i in rows]
    used = sorted({clip for record in records for clip in record.clips})
    place = {clip: number for number, clip in enumerate(used)}
    moved = [replace(record, clips=tuple(place[clip] for clip in record.clips)) for record in records]
    return replace(part, clips=[part.clips[clip] for clip in used], records=moved)
