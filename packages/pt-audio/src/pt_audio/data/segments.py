"""Clips as segments of features."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from pt_core.data import Batch
from pt_core.errors import DataError
from torch import Tensor

from pt_audio.adapters.encoders import FrontEnd
from pt_audio.data.sound import Source


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
