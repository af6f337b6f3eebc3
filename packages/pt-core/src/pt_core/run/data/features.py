"""Datasets of frozen features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pt_core.data import Batch, Dataset


class FeatureDataset:
    """A dataset whose samples are rows of a feature tensor, handed to methods as `batch.extra["frozen"]`.

    Targets are the class indices, or what the base's `target(rows)` gives where it has other ones.
    """

    augmented = False

    def __init__(self, base: Dataset, features: Tensor) -> None:
        self.base, self.features = base, features
        self.ids = base.ids
        self.labels = base.labels
        self.target: Callable[[Sequence[int]], Any] = getattr(base, "target", self._class)

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Tensor:
        return self.features[index]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        rows = torch.as_tensor(list(index))
        return Batch(
            None, self.target(index), rows, [self.ids[i] for i in index], {"frozen": torch.stack(list(samples))}
        )

    def identity(self) -> str:
        return self.base.identity()

    def _class(self, index: Sequence[int]) -> Tensor | None:
        return None if self.labels is None else torch.as_tensor([self.labels[i] for i in index])
