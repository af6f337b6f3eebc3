"""Datasets of frozen features: what no tuned tensor influences is computed once per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pt_core.data import Batch, Dataset
from pt_core.method import Method
from pt_core.run.sampling import SubsetDataset
from pt_core.run.streams import Shard, ordered_batches
from pt_core.run.world import World

Store = Callable[[str, Dataset, Callable[[Sequence[int]], Iterable[Tensor]]], Tensor]
"""(key, dataset, compute) -> features; `compute(rows)` yields blocks of the rows that the feature cache behind it lacks."""


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


def compute_features(
    method: Method, dataset: Dataset, rows: Sequence[int], world: World, batch_size: int, workers: int = 0
) -> Iterator[Tensor]:
    """Blocks (n, ...) of `method.frozen_part` in float32, for the given samples in that order."""
    from tqdm import tqdm

    chosen = SubsetDataset(dataset, rows)
    batches = ordered_batches(chosen, batch_size, 0, Shard(), workers)
    total = -(-len(rows) // batch_size)
    for batch in tqdm(
        batches, total=total, desc="features", disable=None if world.main else True, leave=False, delay=2
    ):
        with torch.no_grad(), world.autocast():
            block = method.frozen_part(batch.to(world.device)).float().cpu()
        yield block


def with_features(
    method: Method, dataset: Dataset, world: World, batch_size: int, store: Store, workers: int = 0
) -> Dataset:
    """The dataset with its frozen features, where the method has some and the samples are the same in every epoch.

    Samples that share parts (clips that occur in several questions, say) need not store them several times: a dataset with
    `frozen_parts()`, a dataset of the parts, and `with_frozen(features)` gets one row per part and says itself how its batches hold them.
    """
    key = method.frozen_key()
    if key is None:
        return dataset
    parts = getattr(dataset, "frozen_parts", None)
    if parts is None and getattr(dataset, "augmented", False):
        return dataset
    method.eval()
    if parts is not None:
        shared: Dataset = parts()
        features = store(key, shared, lambda rows: compute_features(method, shared, rows, world, batch_size, workers))
        filled: Dataset = dataset.with_frozen(features)  # type: ignore[attr-defined]
        return filled
    return FeatureDataset(
        dataset,
        store(key, dataset, lambda rows: compute_features(method, dataset, rows, world, batch_size, workers)),
    )
