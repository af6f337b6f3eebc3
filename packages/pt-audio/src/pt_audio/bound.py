"""Records as a method reads them: tokens of three kinds, segments of features, and batches that hold every clip once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pt_core.bridges.answers import IGNORED
from pt_core.bridges.transformers import check_length
from pt_core.data import Batch
from pt_core.errors import DataError, UserError
from torch import Tensor

from pt_audio.records import TASKS, Record
from pt_audio.sound import Source

if TYPE_CHECKING:
    from pt_audio.data import AudioRecords
    from pt_audio.encoders import AudioEncoder, FrontEnd
    from pt_audio.models import LanguageModel, TextModel

CAPTION_TOKENS = 32
"""Longest caption of stage 1."""


@dataclass(frozen=True)
class Limits:
    """Longest instruction (cut on the left) and answer (cut on the right), in tokens."""

    instruction: int = 128
    answer: int = 256


@dataclass(frozen=True)
class Element:
    """A clip and the text behind it.

    Attributes:
        clip: key of the clip in its data.
        segments: rows of the batch's segments.
        asked: the text as the Q-former reads it ([CLS] ... [SEP]).
        tokens: the text as the language model reads it.
    """

    clip: int
    segments: tuple[int, ...]
    asked: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A record of a batch: its K elements, and its answer as the Q-former reads it (for stage 1)."""

    elements: tuple[Element, ...]
    caption: tuple[int, ...] = ()


@dataclass(frozen=True)
class AudioText:
    """Inputs of a batch (`Ragged`): every clip occurs once, however many records share it.

    Attributes:
        segments: (segment, T, F) features, or (segment, N, d) encoder outputs where `encoded`.
        rows: one per record.
    """

    segments: Tensor
    encoded: bool
    rows: tuple[Row, ...]

    def map_tensors(self, fn: Any) -> AudioText:
        return replace(self, segments=fn(self.segments))

    def select_rows(self, rows: Sequence[int]) -> AudioText:
        chosen = [self.rows[i] for i in rows]
        used = sorted({place for row in chosen for element in row.elements for place in element.segments})
        new = {old: number for number, old in enumerate(used)}
        moved = tuple(
            replace(
                row,
                elements=tuple(replace(e, segments=tuple(new[place] for place in e.segments)) for e in row.elements),
            )
            for row in chosen
        )
        return replace(self, segments=self.segments[torch.tensor(used, device=self.segments.device)], rows=moved)


@dataclass(frozen=True)
class Tokens:
    """A record's texts as tokens."""

    asked: tuple[tuple[int, ...], ...]
    told: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...] | None
    caption: tuple[int, ...]


class BoundRecords:
    """See the module's docstring. `batch.target`: `answer` (batch, tokens) ids with the end token, padded by IGNORED, and `tag` (batch,),
    the class of a tagging record or -1. `batch.extra`: `task` (batch,), position in `TASKS`."""

    augmented = False

    def __init__(
        self,
        base: AudioRecords,
        encoder: AudioEncoder,
        text: TextModel,
        lm: LanguageModel,
        tags: tuple[str, ...] = (),
        limits: Limits | None = None,
        features: Tensor | None = None,
    ) -> None:
        # No network is kept: worker processes get a copy of this object.
        self.base, self.front, self.begin, self.context = base, encoder.front, lm.begin, lm.sizes.context
        self.tags, self.limits, self.features = tags, limits or Limits(), features
        self.ids: Sequence[str] = list(base.ids)
        self.labels: Sequence[int] | None = base.labels
        counts = [segment_count(clip, self.front) for clip in base.clips]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        self.segments_of = [tuple(range(s, s + c)) for s, c in zip(starts, counts, strict=True)]
        self.tokens = [self._tokens(record, text, lm) for record in base.records]

    def _tokens(self, record: Record, text: TextModel, lm: LanguageModel) -> Tokens:
        if len(record.clips) != len(record.texts):
            raise DataError(
                f"{record.name} has {len(record.clips)} clips and {len(record.texts)} texts; give one text per clip"
            )
        longest = self.limits.instruction
        told = tuple(tuple(lm.tokens(piece)[-longest:]) for piece in record.texts)
        asked = tuple(tuple(text.tokens(piece, longest)) for piece in record.texts)
        answer: tuple[int, ...] | None = None
        caption: tuple[int, ...] = ()
        if record.answer is not None:
            ids = lm.tokens(record.answer)[: self.limits.answer - 1]
            if not ids:
                raise DataError(f"{record.name} has an answer of zero tokens ({record.answer!r})")
            answer = (*ids, lm.end)
            caption = tuple(text.tokens(record.answer, CAPTION_TOKENS))
        elif not told[-1]:
            raise DataError(f"{record.name} has no text behind its last clip; say what is asked (--ask)")
        return Tokens(asked, told, answer, caption)

    def __len__(self) -> int:
        return len(self.ids)

    def identity(self) -> str:
        return self.base.identity()

    @property
    def records(self) -> Sequence[Record]:
        return self.base.records

    def frozen_parts(self) -> SegmentDataset:
        """All segments of all clips, for the feature cache."""
        return SegmentDataset(self.base.clips, self.front, self.segments_of)

    def with_frozen(self, features: Tensor) -> BoundRecords:
        """The same records over encoder outputs (segment, N, d)."""
        new = object.__new__(BoundRecords)
        new.__dict__.update(self.__dict__, features=features)
        return new

    def sample(self, index: int, *, epoch: int | None, seed: int) -> dict[int, Tensor]:
        """Clip -> features (segment, T, F), read and computed here; nothing where encoder outputs are at hand."""
        if self.features is not None:
            return {}
        clips = dict.fromkeys(self.base.records[index].clips)
        return {clip: clip_features(self.base.clips[clip], self.front) for clip in clips}

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        records = [self.base.records[i] for i in index]
        clips = list(dict.fromkeys(clip for record in records for clip in record.clips))
        places: dict[int, tuple[int, ...]] = {}
        total = 0
        for clip in clips:
            count = len(self.segments_of[clip])
            places[clip] = tuple(range(total, total + count))
            total += count
        if self.features is not None:
            wanted = [place for clip in clips for place in self.segments_of[clip]]
            segments = self.features[torch.tensor(wanted, dtype=torch.long)]
        else:
            read = {clip: features for sample in samples for clip, features in sample.items()}
            segments = torch.cat([read[clip] for clip in clips])
        rows = []
        for record, tokens in zip(records, (self.tokens[i] for i in index), strict=True):
            elements = (
                Element(clip, places[clip], asked, told)
                for clip, asked, told in zip(record.clips, tokens.asked, tokens.told, strict=True)
            )
            rows.append(Row(tuple(elements), tokens.caption))
        inputs = AudioText(segments, self.features is not None, tuple(rows))
        number = torch.tensor(list(index), dtype=torch.long)
        kinds = torch.tensor([TASKS.index(record.task) for record in records])
        return Batch(inputs, self.target(index), number, [self.ids[i] for i in index], {"task": kinds})

    def target(self, rows: Sequence[int]) -> dict[str, Tensor] | None:
        """Answers and tags, or None where a record has no answer."""
        answers = [self.tokens[i].answer for i in rows]
        if any(answer is None for answer in answers):
            return None
        width = max(len(answer or ()) for answer in answers)
        padded = torch.full((len(answers), width), IGNORED)
        for number, answer in enumerate(answers):
            padded[number, : len(answer or ())] = torch.tensor(answer)
        return {"answer": padded, "tag": torch.tensor([self._tag(self.base.records[i]) for i in rows])}

    def _tag(self, record: Record) -> int:
        known = record.label in self.tags and record.task in ("tagging", "few_shot")
        return self.tags.index(str(record.label)) if known else -1

    def check_lengths(self, block: int, role: str) -> None:
        """Refuse records that do not fit the context window, and say what takes how much.

        Args:
            block: vectors per segment; every clip has an indicator besides.

        Raises:
            UserError: names the record and each part.
        """
        limit = self.context
        begin = 0 if self.begin is None else 1
        for record, tokens in zip(self.base.records, self.tokens, strict=True):
            audio = sum(1 + block * len(self.segments_of[clip]) for clip in record.clips)
            text, answer = sum(len(told) for told in tokens.told), len(tokens.answer or ())
            try:
                check_length(begin + audio, text + answer, limit)
            except UserError:
                raise UserError(
                    f"record {record.name!r} of {role} takes {begin + audio + text + answer} positions (begin {begin}, audio {audio} for "
                    f"{len(record.clips)} clips, text {text}, answer {answer}); the language model has {limit}: shorten it"
                ) from None


class SegmentDataset:
    """Every segment of a list of clips as a sample (T, F)."""

    labels = None
    augmented = False

    def __init__(self, clips: Sequence[Source], front: FrontEnd, segments_of: Sequence[Sequence[int]]) -> None:
        self.clips, self.front = clips, front
        self.places = [(clip, n) for clip, found in enumerate(segments_of) for n in range(len(found))]
        self.ids = [f"{clips[clip].name}[{n}]" for clip, n in self.places]
        self._last: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Tensor:
        clip, number = self.places[index]
        if self._last is None or self._last[0] != clip:
            self._last = clip, clip_features(self.clips[clip], self.front)
        return self._last[1][number]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        rows = torch.tensor(list(index), dtype=torch.long)
        return Batch(torch.stack(list(samples)), None, rows, [self.ids[i] for i in index])

    def identity(self) -> str:
        return hashlib.sha256("".join(clip.digest() for clip in self.clips).encode()).hexdigest()


def segment_count(clip: Source, front: FrontEnd) -> int:
    """Segments that the front end will make of a clip, without reading it."""
    return front.count(clip.samples_at(front.rate))


def clip_features(clip: Source, front: FrontEnd) -> Tensor:
    """(segment, T, F).

    Raises:
        DataError: the clip cannot be read, or is shorter or longer than its header said.
    """
    features = front(clip.read(front.rate))
    expected = segment_count(clip, front)
    if len(features) != expected:
        raise DataError(f"{clip.name} gives {len(features)} segments where its header promises {expected}; repair it")
    return features
