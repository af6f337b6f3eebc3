"""Records as a method reads them: tokens of three kinds, segments of features, and batches that hold every clip once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from pt_core.bridges.answers import IGNORED
from pt_core.bridges.transformers import check_length
from pt_core.data import Batch
from pt_core.errors import DataError, UserError
from torch import Tensor

from pt_audio.adapters.encoders import AudioEncoder
from pt_audio.adapters.language_model import LanguageModel
from pt_audio.adapters.text_model import TextModel
from pt_audio.data.batches import AudioText, Element, Limits, Row, Tokens
from pt_audio.data.records import TASKS, Record
from pt_audio.data.segments import SegmentDataset, clip_features, segment_count
from pt_audio.data.sound import Source

CAPTION_TOKENS = 32
"""Longest caption of stage 1."""


class Asked(Protocol):
    """Clips and the records about them."""

    @property
    def clips(self) -> Sequence[Source]: ...

    @property
    def records(self) -> Sequence[Record]: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int] | None: ...

    def identity(self) -> str: ...


class BoundRecords:
    """See the module's docstring. `batch.target`: `answer` (batch, tokens) ids with the end token, padded by IGNORED, and `tag` (batch,),
    the class of a tagging record or -1. `batch.extra`: `task` (batch,), position in `TASKS`."""

    augmented = False

    def __init__(
        self,
        base: Asked,
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
