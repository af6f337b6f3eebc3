"""A data role without samples: the classes of a run that needs no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pt_core.data import Batch


class ClassesOnly:
    """No samples, only class names (and texts that describe them); what a task is made from where a method trains on nothing."""

    def __init__(self, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None) -> None:
        self.classes, self.texts = list(names), dict(texts or {})
        self.ids: Sequence[str] = []
        self.labels: Sequence[int] | None = []

    def __len__(self) -> int:
        return 0

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        raise IndexError("there are no samples")

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        raise IndexError("there are no samples")

    def identity(self) -> str:
        return "no data"
