"""Samples that share parts: their frozen features are computed and stored once per part."""

from __future__ import annotations

from typing import Any

import torch
from pt_core import Batch
from pt_core.run.data.sampling import SubsetDataset
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.features import with_features
from pt_core.run.train.world import World
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask, Vectors


class Encoded(TinyMethod):
    """Its frozen part is the mean token of every input."""

    def frozen_key(self) -> str:
        return "mean"

    def frozen_part(self, batch: Batch) -> torch.Tensor:
        return self.backbone(batch.inputs).tokens.mean(1)


class Pairs:
    """Sample i consists of the vectors i and i + 1."""

    augmented = True  # of the pairs; the parts are the same in every epoch

    def __init__(self, base: Vectors, features: torch.Tensor | None = None) -> None:
        self.base, self.features = base, features
        self.ids, self.labels = base.ids[:-1], None

    def __len__(self) -> int:
        return len(self.ids)

    def frozen_parts(self) -> Vectors:
        return self.base

    def with_frozen(self, features: torch.Tensor) -> Pairs:
        return Pairs(self.base, features)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        assert self.features is not None
        return self.features[index : index + 2]

    def collate(self, index: Any, samples: Any) -> Batch:
        return Batch(torch.stack(list(samples)), None, torch.tensor(list(index)), [self.ids[i] for i in index])

    def identity(self) -> str:
        return "pairs"


def test_parts_are_stored_once_and_subsets_keep_them() -> None:
    base = Vectors(7)
    method = Encoded(None, {"backbone": TinyBackbone()}, ToyTask())
    stored = []

    def store(key, dataset, compute):
        stored.append((key, len(dataset), dataset.identity()))
        return torch.cat(list(compute(range(len(dataset)))))

    world = World(TrainOptions(device="cpu"))
    for dataset in (Pairs(base), SubsetDataset(Pairs(base), [4, 1])):
        filled = with_features(method, dataset, world, 3, store)
        assert len(filled) == len(dataset)
        batch = filled.collate([0, 1], [filled.sample(i, epoch=0, seed=0) for i in (0, 1)])
        first = getattr(dataset, "indices", [0, 1])[0]
        want = method.backbone(base.values[first : first + 2]).tokens.mean(1)
        torch.testing.assert_close(batch.inputs[0], want)
    assert stored == [("mean", 7, base.identity())] * 2
