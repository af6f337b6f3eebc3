"""Windows with classes and domains, as a run reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pt_core.data import Batch, Dataset
from pt_core.errors import DataError
from pt_core.run.data.labels import relabelled
from torch import Tensor

from pt_timeseries.data.domains import Domain
from pt_timeseries.options import Missing, Unequal

SMALLEST_STD = 1e-6
"""Floor of a channel's standard deviation: a constant channel stays constant."""


@dataclass(eq=False)
class WindowDataset:
    """Windows with class indices and domains. Its methods give new data sets and change none.

    Attributes:
        values: (sample, channel, step) float32; NaN behind the end of a series that is shorter than others.
        ids: `domain/number` of each window.
        labels: class index per window, or None.
        classes: class names, which `labels` index.
        domains: domain name per window.
        normalise: how the run normalises (see `DataOptions`).
        known: source names, which `extra["domain"]` of a batch indexes; -1 stands for any other domain. Set by `bind`.
        notes: sentences on how the data were read.
        unequal, missing: what was done about series of different length and missing values.
    """

    values: Tensor
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: Sequence[str]
    domains: Sequence[str]
    normalise: str = "train"
    known: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    unequal: Unequal = "error"
    missing: Missing = "error"

    augmented = False

    def __post_init__(self) -> None:
        position = {name: index for index, name in enumerate(self.known or ())}
        self.domain_index = torch.tensor([position.get(name, -1) for name in self.domains], dtype=torch.long)
        self.targets = None if self.labels is None else torch.tensor(list(self.labels), dtype=torch.long)

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Tensor:
        """(channel, step)."""
        return self.values[index]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        """inputs (batch, channel, step), target (batch,) or None, extra: domain (batch,)."""
        rows = torch.as_tensor(list(index), dtype=torch.long)
        target = None if self.targets is None else self.targets[rows]
        extra = {"domain": self.domain_index[rows]}
        return Batch(torch.stack(list(samples)), target, rows, [self.ids[i] for i in index], extra)

    @property
    def padded(self) -> bool:
        """Whether some series end before others."""
        return bool(self.values[:, 0, -1].isnan().any()) if self.values.numel() else False

    def statistics(self) -> tuple[Tensor, Tensor]:
        """(channel,) mean and standard deviation, the latter at least 1e-6; what lies behind the end of a series does not count."""
        values = self.values.double()
        if self.padded:
            mean = values.nanmean((0, 2))
            std = (values - mean[:, None]).square().nanmean((0, 2)).sqrt()
        else:
            mean, std = values.mean((0, 2)), values.std((0, 2), correction=0)
        return mean.float(), std.float().clamp(min=SMALLEST_STD)

    def scaled(self, mean: Tensor, std: Tensor) -> WindowDataset:
        """The windows as z-scores under these statistics.

        Raises:
            DataError: another number of channels.
        """
        if len(mean) != self.values.shape[1]:
            raise DataError(
                f"the windows have {self.values.shape[1]} channels, the run was normalised with {len(mean)}"
            )
        return replace(self, values=(self.values - mean[:, None]) / std[:, None])

    def bind(self, task: Any) -> WindowDataset:
        """Normalised as the task says, with domains indexed by its sources."""
        scaled = self.scaled(*task.statistics) if task.statistics is not None else self
        return replace(scaled, known=task.sources)

    def relabel(self, classes: Sequence[str]) -> WindowDataset:
        """The same windows with class indices into another list of names.

        Raises:
            DataError: a window's class is not in the list.
        """
        problem = "the data have classes that no source has: {} (closed-set adaptation)"
        labels = None if self.labels is None else relabelled(self.labels, self.classes, classes, problem)
        return replace(self, classes=list(classes), labels=labels)

    def digests(self) -> list[str]:
        """One digest per window."""
        return [hashlib.sha256(window.numpy().tobytes()).hexdigest()[:24] for window in self.values]

    def identity(self) -> str:
        """Digest of values, labels, classes, domains and normalisation, in order."""
        total = hashlib.sha256(self.values.numpy().tobytes())
        total.update(repr((list(self.labels or ()), list(self.classes), list(self.domains), self.normalise)).encode())
        return total.hexdigest()


def domains_of(dataset: Dataset) -> list[str]:
    """Domain name per sample, also of a subset or of cached features."""
    if isinstance(dataset, WindowDataset):
        return list(dataset.domains)
    base = domains_of(dataset.base)  # type: ignore[attr-defined]
    rows = getattr(dataset, "indices", None)
    return base if rows is None else [base[row] for row in rows]


def windows_of(
    items: Sequence[Domain],
    classes: Sequence[str],
    normalise: str,
    unequal: Unequal = "error",
    missing: Missing = "error",
) -> WindowDataset:
    """The windows of several domains as one data set; a domain's groups become the numbers in the ids."""
    position = {name: index for index, name in enumerate(classes)}
    labelled = all(domain.labels is not None for domain in items)
    blocks = [domain.values for domain in items]
    if normalise == "domain":
        blocks = [_own_scores(block) for block in blocks]
    return WindowDataset(
        torch.from_numpy(np.concatenate(blocks).astype(np.float32)),
        [f"{domain.name}/{row}" for domain in items for row in domain.groups or ()],
        [position[label] for domain in items for label in domain.labels or ()] if labelled else None,
        list(classes),
        [domain.name for domain in items for _ in range(len(domain))],
        normalise,
        unequal=unequal,
        missing=missing,
    )


def _own_scores(values: Any) -> Any:
    if not len(values):
        return values
    average, spread = (np.nanmean, np.nanstd) if np.isnan(values).any() else (np.mean, np.std)
    mean, std = average(values, (0, 2), keepdims=True), spread(values, (0, 2), keepdims=True)
    return (values - mean) / np.maximum(std, SMALLEST_STD)


def subset(dataset: WindowDataset, rows: Sequence[int]) -> WindowDataset:
    return replace(
        dataset,
        values=dataset.values[list(rows)],
        ids=[dataset.ids[row] for row in rows],
        labels=None if dataset.labels is None else [dataset.labels[row] for row in rows],
        domains=[dataset.domains[row] for row in rows],
    )
