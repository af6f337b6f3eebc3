"""What no tuned tensor influences is computed once per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pt_core.data import Dataset
from pt_core.method import Method
from pt_core.run.data.features import FeatureDataset
from pt_core.run.data.sampling import SubsetDataset
from pt_core.run.data.streams import Shard, ordered_batches
from pt_core.run.train.world import World

Store = Callable[[str, Dataset, Callable[[Sequence[int]], Iterable[Tensor]]], Tensor]
"""(key, dataset, compute) -> features; `compute(rows)` yields blocks of the rows that the feature cache behind it lacks."""


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
