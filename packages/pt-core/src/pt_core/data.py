"""What the trainer needs to know of data: batches and indexable datasets with stable sample ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Ragged(Protocol):
    """Inputs whose tensors do not have one row per sample, such as a batch of graphs."""

    def map_tensors(self, fn: Any) -> Any:
        """The same inputs with `fn` applied to every tensor."""
        ...

    def select_rows(self, rows: Sequence[int]) -> Any:
        """The inputs of some samples, in that order."""
        ...


def map_tensors(value: Any, fn: Any) -> Any:
    """Apply `fn` to every tensor in nested dicts, lists and tuples, and in `Ragged` inputs; anything else is passed through."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Ragged):
        return value.map_tensors(fn)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, fn) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, fn) for item in value)
    return value


@dataclass(frozen=True)
class Batch:
    """Samples of one stream.

    Attributes:
        inputs: what the backbone reads, in whatever form the modality has (a tensor, a mapping of tensors ...).
        target: what the task compares with, or None for unlabelled data.
        index: (batch,) positions of the samples in their dataset, so that a method can keep per-sample state.
        ids: the samples' names, for messages and prediction files.
        extra: further per-sample values (weights, domain, severity ...).
        keys: (batch,) int64 keys of the draws that belong to each sample in this training step (`pt_core.randomness`); None outside of one.
        seed: of the draws that all samples of the step share, the same in every part that its batch is cut into; None outside of one.
    """

    inputs: Any
    target: Any
    index: Tensor
    ids: Sequence[str]
    extra: Mapping[str, Any] = field(default_factory=dict)
    keys: Tensor | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            inputs=map_tensors(self.inputs, move),
            target=map_tensors(self.target, move),
            index=move(self.index),
            extra=map_tensors(self.extra, move),
            keys=None if self.keys is None else move(self.keys),
        )


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    index = torch.tensor(list(rows))

    def pick(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)]

    inputs = batch.inputs.select_rows(rows) if isinstance(batch.inputs, Ragged) else map_tensors(batch.inputs, pick)
    return Batch(
        inputs,
        map_tensors(batch.target, pick),
        pick(batch.index),
        [batch.ids[row] for row in rows],
        map_tensors(batch.extra, pick),
        None if batch.keys is None else pick(batch.keys),
        batch.seed,
    )


@runtime_checkable
class Dataset(Protocol):
    """Indexable samples whose augmentation depends on (seed, epoch, index) only, never on workers or call order."""

    ids: Sequence[str]
    labels: Sequence[int] | None
    """One class index per sample where the task has classes (few-shot sampling and balancing read it), else None."""

    def __len__(self) -> int: ...

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        """One sample. `epoch=None` is the evaluation view: no augmentation."""
        ...

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch: ...

    def identity(self) -> str:
        """A digest of the content (not of the path), recorded in run.json and used as a cache key."""
        ...


def stable_seed(*parts: int | str) -> int:
    """A 63-bit seed from any mixture of integers and strings; equal on every platform and in every process.

    >>> stable_seed(0, "stream", "train", 3)
    6225072012992131548
    """
    import hashlib

    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `stable_seed(*parts)`."""
    return torch.Generator().manual_seed(stable_seed(*parts))
