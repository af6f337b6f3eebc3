"""What a batch of records holds: every clip once, and the texts of every record as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


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
