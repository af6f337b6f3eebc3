"""Data streams whose position is a function of (seed, draws): they resume anywhere and shard over any number of processes.

Draw j of a stream is a fixed list of samples. It is cut into `processes * accumulate` contiguous parts; process r takes parts
r * accumulate .. (r + 1) * accumulate - 1 as its micro-batches. So two processes see what one process with twice the accumulation sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset as TorchDataset

from pt_core.data import Batch, Dataset, generator
from pt_core.errors import DataError
from pt_core.randomness import occurrences
from pt_core.stage import Stream

Key = tuple[int, int | None]


@dataclass(frozen=True)
class Shard:
    """Which part of every draw a process takes."""

    rank: int = 0
    size: int = 1
    accumulate: int = 1


class StreamReader:
    """Reads one stream from draw `start` on.

    Args:
        name: the stream's name; keys its permutations.
        stream: what to draw.
        dataset: the role's data.
        batch_size: samples per draw over all processes.
        seed: data seed.
    """

    def __init__(
        self, name: str, stream: Stream, dataset: Dataset, batch_size: int, seed: int, shard: Shard, workers: int = 0
    ) -> None:
        self.rows: Sequence[int] = range(len(dataset)) if stream.rows is None else stream.rows
        if len(self.rows) == 0:
            raise DataError(f"the data of role {stream.role!r} are empty")
        self.name, self.stream, self.dataset = name, stream, dataset
        self.batch_size = min(batch_size, len(self.rows))
        self.seed, self.shard, self.workers = seed, shard, workers
        self.draws_per_epoch = math.ceil(len(self.rows) / self.batch_size) * stream.repeat
        self.repeats: list[list[int]] = []
        """How often each sample of the micro-batches of the last draw was drawn before in that draw, by any process."""
        self._iterator: Iterator[Batch] | None = None
        self._draw = 0

    def order(self, epoch: int) -> list[int]:
        """The samples of an epoch in the order they are drawn."""
        rng = generator(self.seed, "stream", self.name, epoch)
        if self.stream.balanced:
            places = self._balanced(rng)
        elif self.stream.shuffle:
            places = torch.randperm(len(self.rows), generator=rng).tolist()
        else:
            return list(self.rows)
        return [self.rows[place] for place in places]

    def _balanced(self, rng: torch.Generator) -> list[int]:
        labels = self.dataset.labels
        if labels is None:
            raise DataError(f"balanced sampling needs labels, role {self.stream.role!r} has none")
        values = torch.as_tensor([labels[row] for row in self.rows])
        classes = values.unique()
        per_class = math.ceil(len(values) / len(classes))
        columns = []
        for label in classes:
            members = (values == label).nonzero().flatten()
            rounds = [
                members[torch.randperm(len(members), generator=rng)] for _ in range(math.ceil(per_class / len(members)))
            ]
            columns.append(torch.cat(rounds)[:per_class])
        return torch.stack(columns, 1).flatten()[: len(values)].tolist()

    def draw(self, number: int) -> list[list[Key]]:
        """The micro-batches of draw `number` for this process, as (sample, epoch) keys; some may be empty."""
        epoch, within = divmod(number, self.draws_per_epoch)
        view = epoch * self.stream.repeat + within % self.stream.repeat if self.stream.augment else None
        return [[(index, view) for index in part] for part in self._mine(self._chosen(number))]

    def _chosen(self, number: int) -> list[int]:
        """The samples of draw `number`, of all processes."""
        epoch, within = divmod(number, self.draws_per_epoch)
        position = within // self.stream.repeat
        return self._cached_order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def _mine(self, values: Sequence[int]) -> list[list[int]]:
        """What this process has of the values of a whole draw, by micro-batch."""
        parts = np.array_split(np.asarray(values, dtype=np.int64), self.shard.size * self.shard.accumulate)
        return [
            [int(value) for value in part]
            for part in parts[self.shard.rank * self.shard.accumulate : (self.shard.rank + 1) * self.shard.accumulate]
        ]

    def _cached_order(self, epoch: int) -> list[int]:
        if getattr(self, "_order", (None, None))[0] != epoch:
            self._order: tuple[int, list[int]] = (epoch, self.order(epoch))
        return self._order[1]

    def start(self, draw: int) -> None:
        """Continue at draw number `draw`."""
        self.close()
        self._draw = draw

    def next(self) -> list[Batch | None]:
        """The micro-batches of the next draw for this process; None where this process has no sample in one."""
        if self._iterator is None:
            self._iterator = iter(self._loader(self._draw))
        parts = self.draw(self._draw)
        self.repeats = self._mine(occurrences(self._chosen(self._draw)))
        self._draw += 1
        return [next(self._iterator) if part else None for part in parts]

    def _loader(self, start: int) -> DataLoader[Any]:
        # A second reader walks ahead in the loader's own process, so that prefetching does not move our position.
        ahead = StreamReader(self.name, self.stream, self.dataset, self.batch_size, self.seed, self.shard)
        return make_loader(self.dataset, _endless(ahead, start), self.seed, self.workers)

    def close(self) -> None:
        self._iterator = None


def _endless(reader: StreamReader, start: int) -> Iterator[list[Key]]:
    number = start
    while True:
        yield from (part for part in reader.draw(number) if part)
        number += 1


def ordered_batches(dataset: Dataset, batch_size: int, seed: int, shard: Shard, workers: int = 0) -> Iterator[Batch]:
    """All samples of this process's part once, evaluation view: samples rank, rank + size, rank + 2 size ..."""
    mine: Sequence[int] = range(shard.rank, len(dataset), shard.size)
    keys: Iterator[list[Key]] = (
        [(index, None) for index in mine[start : start + batch_size]] for start in range(0, len(mine), batch_size)
    )
    return iter(make_loader(dataset, keys, seed, workers))


class _Keyed(TorchDataset[tuple[int, Any]]):
    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: Key) -> tuple[int, Any]:
        index, epoch = key
        return index, self.dataset.sample(index, epoch=epoch, seed=self.seed)

    def collate(self, pairs: list[tuple[int, Any]]) -> Batch:
        return self.dataset.collate([index for index, _ in pairs], [sample for _, sample in pairs])


def make_loader(dataset: Dataset, keys: Iterator[list[Key]], seed: int, workers: int) -> DataLoader[Any]:
    keyed = _Keyed(dataset, seed)
    return DataLoader(
        keyed,
        batch_sampler=_Once(keys),
        collate_fn=keyed.collate,
        num_workers=workers,
        # Its own generator: the loader's base seed must not come from the global one.
        generator=torch.Generator().manual_seed(0),
    )


class _Once(torch.utils.data.Sampler[list[Any]]):
    def __init__(self, keys: Iterator[list[Key]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Any]]:
        return self.keys
