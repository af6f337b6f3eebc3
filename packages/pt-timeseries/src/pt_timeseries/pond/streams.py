"""Streams of single domains: the rows of every source, which sources a step draws, and batches by source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from pt_core import Batch
from pt_core.data import Dataset, generator
from torch import Tensor

from pt_timeseries.data.dataset import domains_of

NAME, TARGET = "source-{}", "target"
"""Names of the streams."""


def domain_rows(dataset: Dataset, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Rows of every named domain, for streams that draw from one domain."""
    found: dict[str, list[int]] = {name: [] for name in names}
    for row, name in enumerate(domains_of(dataset)):
        found.setdefault(name, []).append(row)
    return [tuple(found[name]) for name in names]


def mean(objective: Mapping[int, Tensor]) -> Tensor:
    return torch.stack(list(objective.values())).mean()


def by_source(batches: Mapping[str, Batch]) -> dict[int, Batch]:
    """Source index -> its batch; the target's is left out."""
    return {int(name.rpartition("-")[2]): batch for name, batch in batches.items() if name != TARGET}


def chunk(batch: Batch, number: int, parts: int) -> Batch:
    """Part `number` of a batch that was drawn for several inner steps."""
    size = math.ceil(len(batch) / parts)
    rows = slice(number * size, (number + 1) * size)
    return Batch(batch.inputs[rows], batch.target[rows], batch.index[rows], batch.ids[rows])


def domain_plan(count: int, drawn: int, seed: int, target: bool = False) -> Callable[[int], Sequence[str]]:
    """Step k -> the streams drawn: walks through random orders of all sources, `drawn` at a time; the target as often as a source."""

    def plan(step: int) -> list[str]:
        places = range(step * drawn, (step + 1) * drawn)
        rounds = {p // count for p in places}
        orders = {r: torch.randperm(count, generator=generator(seed, "sources", r)).tolist() for r in rounds}
        picked = dict.fromkeys(orders[p // count][p % count] for p in places)
        return [NAME.format(i) for i in sorted(picked)] + [TARGET] * (target and step * drawn % count < drawn)

    return plan
