"""A data role whose labels are nobody's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pt_core.data import Batch, Dataset


class Unlabelled:
    """A dataset without its labels: batches have no target. What else the dataset offers is passed on."""

    def __init__(self, base: Dataset) -> None:
        self.base, self.ids = base, base.ids
        self.labels: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        return self.base.sample(index, epoch=epoch, seed=seed)

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        return replace(self.base.collate(index, samples), target=None)

    def identity(self) -> str:
        return self.base.identity()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("base", "target"):  # not there yet while unpickling; targets stay hidden
            raise AttributeError(name)
        value = getattr(self.base, name)
        if name in ("bind", "relabel", "with_frozen"):
            return lambda *args, **kwargs: Unlabelled(value(*args, **kwargs))
        return value
