"""Random numbers that depend on keys only: never on what ran before, nor on how a batch is cut.

Every draw of a training step that belongs to a sample comes from a counter-based generator keyed by (seed, stage, step, stream, sample) and
a purpose. The trainer puts one key per row on `Batch.keys`; while a method runs on that batch (`sampled_by`), `dropout` reads them. So
one process, two processes and any number of micro-batches draw the same values for the same sample.

A sample that is drawn several times in a step (balanced sampling, replay) draws anew each time: its occurrence within the step is part
of the key.

Axes: row = sample of the micro-batch (or what a method takes as one: a node, a point).

The generator is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a hash of (key, position): value i of a row is mix(key + (i + 1) G),
a handful of integer operations on a whole tensor, on any device, with the same bits everywhere.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_core.data import Batch, generator, stable_seed

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, as int64
_ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685))  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_rows: ContextVar[Tensor | None] = ContextVar("pt_core_rows", default=None)


def mixed(values: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 values: a bijection whose output bits all depend on all input bits."""
    return _mix(values.clone())


def _mix(values: Tensor) -> Tensor:
    """`mixed` in place."""
    for shift, factor in _ROUNDS:
        values.bitwise_xor_(_shifted(values, shift)).mul_(factor)
    return values.bitwise_xor_(_shifted(values, 31))


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic for int64."""
    return (values >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def row_keys(index: Tensor, *key: int | str) -> Tensor:
    """(row,) int64 keys of samples at positions `index` (row,), for everything drawn under `key`."""
    return mixed(mixed(index.long()) ^ stable_seed(*key))


def part_keys(keys: Tensor, position: Tensor) -> Tensor:
    """Keys of parts of samples (nodes of graphs, views): `keys` is the owner's key per part, `position` the part's place in its owner."""
    return mixed(keys ^ mixed(position.long() + _GOLDEN))


def keyed(batch: Batch, *key: int | str, occurrence: Sequence[int] | None = None) -> Batch:
    """The batch with one key per row, and the seed that its rows share. `keyed(batch, *key)` of a part is the part of `keyed` of the
    whole.

    Args:
        occurrence: how often the sample of each row was drawn before in this step (`occurrences`), for it may draw other numbers every
            time; None where no sample is drawn twice.
    """
    from dataclasses import replace

    keys = row_keys(batch.index, *key)
    if occurrence is not None and any(occurrence):
        times = torch.tensor(list(occurrence), device=keys.device)
        keys = torch.where(times == 0, keys, mixed(keys ^ row_keys(times, "occurrence")))
    return replace(batch, keys=keys, seed=stable_seed(*key))


def occurrences(rows: Sequence[int]) -> list[int]:
    """For each of the samples drawn in a step: how often it occurs before.

    >>> occurrences([4, 2, 4, 4])
    [0, 0, 1, 2]
    """
    seen: Counter[int] = Counter()
    found = []
    for row in rows:
        found.append(seen[row])
        seen[row] += 1
    return found


def rekeyed(batch: Batch, purpose: int | str) -> Batch:
    """The batch with other keys derived from its own, for a second pass in the same step that must not repeat the first one's draws."""
    from dataclasses import replace

    if batch.keys is None:
        return batch
    seed = None if batch.seed is None else stable_seed(batch.seed, "purpose", purpose)
    return replace(batch, keys=mixed(batch.keys ^ stable_seed("purpose", purpose)), seed=seed)


def shared_rng(batch: Batch, *key: int | str) -> torch.Generator | None:
    """A CPU generator for a draw that holds for all samples of a step (a window, say), however its batch is cut; None, which is torch's
    own, outside of a training step."""
    return None if batch.seed is None else generator(batch.seed, *key)


@contextmanager
def sampled_by(keys: Tensor | None) -> Iterator[None]:
    """Inside, draws belong to the rows with these (row,) keys. None leaves the surrounding keys in force."""
    if keys is None:
        yield
        return
    token = _rows.set(keys)
    try:
        yield
    finally:
        _rows.reset(token)


@contextmanager
def apart(purpose: int | str) -> Iterator[None]:
    """Inside, the rows draw anew under keys derived from their own: for a layer that runs twice in a step, with other masks each time."""
    keys = _rows.get()
    with sampled_by(None if keys is None else mixed(keys ^ stable_seed("purpose", purpose))):
        yield


def current_rows() -> Tensor | None:
    """(row,) keys in force, or None outside a training step."""
    return _rows.get()


def _bits(keys: Tensor, size: int, purpose: int | str, kind: torch.dtype) -> Tensor:
    """(row, size) random integers of a narrow type, several from each hash."""
    per = 8 // kind.itemsize
    start = mixed(keys ^ stable_seed("draw", purpose))
    counter = torch.arange(1, -(-size // per) + 1, device=keys.device).mul_(_GOLDEN)
    return _mix(start[:, None] + counter).view(kind)[:, :size]


def uniform(keys: Tensor, shape: Sequence[int], purpose: int | str) -> Tensor:
    """(row, *shape) float32 in [0, 1) on the keys' device; row r depends on keys[r] and the purpose only."""
    bits = _bits(keys, math.prod(shape), purpose, torch.int32)
    return ((bits >> 8) & 0xFFFFFF).float().mul_(2.0**-24).view(len(keys), *shape)


def bernoulli(keys: Tensor, shape: Sequence[int], p: float, purpose: int | str) -> Tensor:
    """(row, *shape) booleans that are True with probability p, rounded to a multiple of 2^-16."""
    bits = _bits(keys, math.prod(shape), purpose, torch.int16)
    threshold = round(p * 2**16) - 2**15
    zeros = torch.ones_like(bits, dtype=torch.bool) if threshold >= 2**15 else bits < threshold
    return zeros.view(len(keys), *shape)


def normal(keys: Tensor, shape: Sequence[int], purpose: int | str) -> Tensor:
    """(row, *shape) standard normal float32, by Box and Muller."""
    first, second = uniform(keys, shape, f"{purpose}|radius"), uniform(keys, shape, f"{purpose}|angle")
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)


def dropout(
    x: Tensor, p: float, training: bool, purpose: int | str, *, axis: int = 0, shared: Sequence[int] = ()
) -> Tensor:
    """Dropout whose mask belongs to the sample: keyed where a training step runs, torch's own elsewhere.

    Args:
        x: axis `axis` has one entry per row, or a whole number of groups of all rows one behind the other (views of the same samples).
        p: probability of a zero, kept to 8e-6; survivors are scaled by 1 / (1 - p).
        purpose: tells this draw from the others of the same step; the same purpose gives the same mask.
        shared: further axes of `x` that share one value (2 and 3 of a feature map: channel dropout).

    Raises:
        ValueError: `x` has rows that the keys do not cover.
    """
    if not training or p == 0:
        return x
    keys = current_rows()
    if keys is None:
        shape = [1 if place in shared else size for place, size in enumerate(x.shape)]
        return (
            x * F.dropout(torch.ones(shape, dtype=x.dtype, device=x.device), p, True)
            if shared
            else F.dropout(x, p, True)
        )
    if x.shape[axis] % len(keys):
        raise ValueError(
            f"dropout {purpose!r} of shape {tuple(x.shape)} does not have {len(keys)} rows along axis {axis}"
        )
    groups = x.shape[axis] // len(keys)
    if groups > 1:
        order = torch.arange(groups, device=keys.device).repeat_interleave(len(keys))
        keys = part_keys(keys.repeat(groups), order)
    moved = x.movedim(axis, 0)
    axes = [place if place < axis else place - 1 for place in shared]
    shape = [1 if place in axes else size for place, size in enumerate(moved.shape[1:])]
    zeros = bernoulli(keys.to(x.device), shape, p, purpose)
    return (x / (1 - p)).masked_fill(zeros.movedim(0, axis), 0)


class Dropout(nn.Module):
    """`dropout` as a layer: p as in torch; `channels` drops whole channels of (row, channel, ...) maps, as Dropout2d does.

    Args:
        name: the draw's purpose; unique among the layers of a method.
    """

    def __init__(self, p: float, name: str, channels: bool = False) -> None:
        super().__init__()
        self.p, self.name, self.channels = p, name, channels

    def forward(self, x: Tensor) -> Tensor:
        shared = range(2, x.ndim) if self.channels else ()
        return dropout(x, self.p, self.training, self.name, shared=tuple(shared))

    def extra_repr(self) -> str:
        return f"p={self.p}, name={self.name!r}" + (", channels=True" if self.channels else "")


@contextmanager
def keep_rng() -> Iterator[None]:
    """Leave the caller's random number generators (python, numpy, torch) as they were."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Run the body with all generators seeded by `key`, then put the caller's back: building a method draws its initial values here."""
    with keep_rng():
        reseed(*key)
        yield


def reseed(*key: int | str) -> None:
    """Seed the generators of python, numpy and torch by `key`."""
    seed = stable_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if _accelerated():
        torch.manual_seed(seed)
    else:  # the same numbers; `torch.manual_seed` notes the call stack for every kind of GPU, a quarter of a small step's time
        torch.default_generator.manual_seed(seed)


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()
