"""Few-shot samples, stratified and grouped splits, class weights, subsets: all functions of the labels and a seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pt_core.data import Batch, Dataset, generator, stable_seed
from pt_core.errors import DataError

Integers = NDArray[np.int64]
GROUP_FOLDS = 10
"""Grouped data are held out in folds: the share is m / n with n up to this (or 1 / fraction, if that is more)."""
GROUP_TRIES = 8
"""Shuffles tried for a grouped split that leaves every class on both sides."""


def few_shot(labels: Sequence[int], shots: int, seed: int, names: Sequence[str] = (), exact: bool = False) -> list[int]:
    """Indices of `shots` samples per class, in data order; of a class with fewer, all of them (see `short_classes`).

    Every class is drawn by itself, so another class more or less does not change a class's samples, and the draw for k
    shots is part of the draw for k + 1.

    Raises:
        DataError: with `exact`, a class has fewer samples; lists the counts.
    """
    if shots < 1:
        raise DataError(f"--shots {shots} is not a number of samples per class; give 1 or more")
    short = short_classes(labels, shots, names)
    if short and exact:
        raise DataError(
            f"--shots {shots} is more than some classes have in the training part: {_listed(short)}; lower --shots (without "
            "--exact-shots all of a class are taken)"
        )
    values = np.asarray(labels, dtype=np.int64)
    chosen: list[int] = []
    for label in np.unique(values).tolist():
        rows = np.flatnonzero(values == label)
        order = torch.randperm(len(rows), generator=generator(seed, "few-shot", label))
        chosen += rows[order[:shots].numpy()].tolist()
    return sorted(chosen)


def short_classes(labels: Sequence[int], shots: int, names: Sequence[str] = ()) -> list[str]:
    """`NAME has N` for every class with fewer samples than shots; of the classes in `names`, those without any too."""
    counts = Counter(int(label) for label in labels)
    classes = range(len(names)) if names else sorted(counts)
    return [f"{_name(label, names)} has {counts[label]}" for label in classes if counts[label] < shots]


def fewer_shots(labels: Sequence[int], shots: int, names: Sequence[str] = (), flag: str = "shots") -> str | None:
    """The sentence that tells the user which classes are short; None where none is."""
    short = short_classes(labels, shots, names)
    if not short:
        return None
    return f"--{flag} {shots}: {_listed(short)}, of which all are taken (--exact-{flag} refuses this)"


def stratified_split(
    labels: Sequence[int],
    fraction: float,
    seed: int,
    groups: Sequence[str] | None = None,
    names: Sequence[str] = (),
) -> tuple[list[int], list[int]]:
    """Split off about `fraction` of every class: (kept, held out), each in data order.

    Without groups at least as many samples as there are classes are held out, so tiny data hold out more than the
    fraction. With `groups` no group lies on both sides; the held-out share is then as close to the fraction as folds of
    whole groups come.

    Raises:
        DataError: a class is too small, or lies in too few groups, to stay in the kept part; names the classes.
    """
    if not 0 < fraction < 1:
        raise DataError(f"cannot hold out a share of {fraction:g}; give a number between 0 and 1")
    target = np.asarray(labels, dtype=np.int64)
    if groups is None:
        kept, held = _split_samples(target, fraction, seed, names)
    else:
        kept, held = _split_groups(target, fraction, seed, np.asarray([str(group) for group in groups]), names)
    lost = sorted(set(target.tolist()) - set(target[kept].tolist()))
    if lost:
        # Only a fraction near 1, or few groups, end here.
        which = _listed([_name(label, names) for label in lost])
        raise DataError(
            f"holding out {fraction:.0%} leaves no training sample of {which}; hold out less or give the part yourself"
        )
    return sorted(kept.tolist()), sorted(held.tolist())


def _split_samples(target: Integers, fraction: float, seed: int, names: Sequence[str]) -> tuple[Integers, Integers]:
    counts = Counter(target.tolist())
    tiny = [f"{_name(label, names)} has {count}" for label, count in sorted(counts.items()) if count < 2]
    if tiny or not counts:
        found = _listed(tiny) if tiny else "the data are empty"
        raise DataError(
            f"cannot split: every class needs 2 samples or more, but {found}; add data or give the part yourself"
        )
    size = min(max(round(fraction * len(target)), len(counts)), len(target) - len(counts))
    return _shuffled(target, size, stable_seed(seed, "split") % 2**32)


def _shuffled(target: Integers, held: int, seed: int) -> tuple[Integers, Integers]:
    """(kept, held out), the very samples that scikit-learn's StratifiedShuffleSplit draws, which takes seconds to import."""
    rng = np.random.RandomState(seed)
    position = np.unique(target, return_inverse=True)[1]
    counts = np.bincount(position)
    keep = _apportioned(counts, len(target) - held, rng)
    drop = _apportioned(counts - keep, held, rng)
    parts: tuple[list[Integers], list[Integers]] = ([], [])
    for label, (first, second) in enumerate(zip(keep.tolist(), drop.tolist(), strict=True)):
        rows = np.flatnonzero(position == label)[rng.permutation(counts[label])]
        parts[0].append(rows[:first])
        parts[1].append(rows[first : first + second])
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def _apportioned(counts: Integers, total: int, rng: np.random.RandomState) -> Integers:
    """(class,) numbers of samples that add up to `total`, in proportion to `counts`: whole shares first, the rest to the largest
    remainders, drawn among equal ones."""
    shares = counts / counts.sum() * total
    whole = np.floor(shares)
    remainder = shares - whole
    left = int(total - whole.sum())
    for value in np.unique(remainder)[::-1]:
        if left <= 0:
            break
        tied = np.flatnonzero(remainder == value)
        chosen = rng.choice(tied, size=min(len(tied), left), replace=False)
        whole[chosen] += 1
        left -= len(chosen)
    apportioned: Integers = whole.astype(np.int64)
    return apportioned


def _split_groups(
    target: Integers, fraction: float, seed: int, groups: NDArray[np.str_], names: Sequence[str]
) -> tuple[Integers, Integers]:
    """The best of a few shuffles: no class is lost from the kept part, and few are absent from the held-out part."""
    if len(groups) != len(target):
        raise DataError(f"there are {len(groups)} groups for {len(target)} samples; give one per sample")
    homes = {label: set(groups[target == label].tolist()) for label in np.unique(target).tolist()}
    # A class within one group can only be kept as a whole, and that group with it.
    single = [label for label, found in homes.items() if len(found) == 1]
    pinned = {group for label in single for group in homes[label]}
    free = np.flatnonzero([group not in pinned for group in groups.tolist()])
    most = min(len(set(groups[free].tolist())), max(Counter(target[free].tolist()).values(), default=0))
    if most < 2:
        found = f"; {_listed([_name(label, names) for label in single])} lie in one group each" if single else ""
        raise DataError(f"cannot split {len(set(groups.tolist()))} groups so that every class can be trained on{found}")
    take, folds = _share(min(fraction * len(target) / len(free), 0.9), most)
    best, best_score = np.arange(0), (len(homes) + 1, 0)
    for attempt in range(GROUP_TRIES):
        held = free[_held_folds(target[free], groups[free], take, folds, stable_seed(seed, "split", attempt))]
        kept = np.setdiff1d(np.arange(len(target)), held)
        kept_classes, held_classes = set(target[kept].tolist()), set(target[held].tolist())
        absent = len(homes) - len(single) - len(held_classes)
        score = (len(homes) - len(kept_classes), absent if len(held) else len(homes) + 1)
        if score < best_score:
            best, best_score = held, score
        if score == (0, 0):
            break
    return np.setdiff1d(np.arange(len(target)), best), best


def _share(fraction: float, most: int) -> tuple[int, int]:
    """(m, n) with m / n nearest to the fraction and n at most `most`, and GROUP_FOLDS or 1 / fraction."""
    finest = min(most, max(GROUP_FOLDS, round(1 / fraction)))
    pairs = [(m, n) for n in range(2, finest + 1) for m in range(1, n)]
    return min(pairs, key=lambda pair: (round(abs(pair[0] / pair[1] - fraction), 9), pair[1]))


def _held_folds(target: Integers, groups: NDArray[np.str_], take: int, folds: int, seed: int) -> Integers:
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # Of classes smaller than the number of folds; the caller examines the split itself.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = [held for _, held in splitter.split(target[:, None], target, groups)]
    return np.sort(np.concatenate(parts[:take]))


def hold_out(
    dataset: Dataset, fraction: float, seed: int, names: Sequence[str] = ()
) -> tuple[SubsetDataset, SubsetDataset]:
    """(kept, held out) by `stratified_split`, by the dataset's `groups` where it has some; at random where it has no classes.

    Raises:
        DataError: as `stratified_split`.
    """
    labels, names = (dataset.labels, names) if dataset.labels is not None else ([0] * len(dataset), ("sample",))
    kept, held = stratified_split(labels, fraction, seed, getattr(dataset, "groups", None), names)
    return SubsetDataset(dataset, kept), SubsetDataset(dataset, held)


def with_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The dataset with class indices into `names`, where it knows the names of its own classes.

    Two folders need not have the same classes, so equal indices of two datasets may mean different things.

    Raises:
        DataError: the dataset has a class that is not in `names`.
    """
    own = getattr(dataset, "classes", None)
    if not own or not names or list(own) == list(names):
        return dataset
    relabelled: Dataset = dataset.relabel(names)  # type: ignore[attr-defined]
    return relabelled


def class_weights(labels: Sequence[int], classes: int) -> Tensor:
    """(class,) inverse frequencies as float32, with mean 1 over the samples; a class without samples gets 0.

    Raises:
        DataError: there is no label, or one is outside 0..classes - 1.
    """
    values = torch.as_tensor(list(labels), dtype=torch.long)
    if len(values) == 0:
        raise DataError("class weights need at least one labelled sample")
    if int(values.min()) < 0 or int(values.max()) >= classes:
        raise DataError(f"labels run from {int(values.min())} to {int(values.max())}, outside 0..{classes - 1}")
    counts = torch.bincount(values, minlength=classes).float()
    weights = torch.where(counts > 0, len(values) / counts.clamp(min=1), torch.zeros(()))
    return weights / (counts > 0).sum()


class SubsetDataset:
    """Some samples of a dataset, renumbered; a subset of a subset refers to the original.

    Augmentation is keyed by a sample's position in the base, so a sample looks the same whatever it is drawn with. What
    a modality's dataset offers beyond the contract is passed on: `groups`, `digests()`, `target(rows)` and `picture(index)` follow the
    selection, `bind(...)`, `relabel(...)` and `with_frozen(...)` give a subset of the changed base, anything else is the base's own.
    """

    def __init__(self, base: Dataset, indices: Sequence[int]) -> None:
        chosen = [int(i) for i in indices]
        if isinstance(base, SubsetDataset):
            chosen, base = [base.indices[i] for i in chosen], base.base
        self.base: Dataset = base
        self.indices: list[int] = chosen
        if any(not 0 <= i < len(base) for i in self.indices):
            raise IndexError(f"subset indices must lie in 0..{len(base) - 1}")
        self.ids: Sequence[str] = [base.ids[i] for i in self.indices]
        self.labels: Sequence[int] | None = None if base.labels is None else [base.labels[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        return self.base.sample(self.indices[index], epoch=epoch, seed=seed)

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        batch = self.base.collate([self.indices[i] for i in index], samples)
        return replace(batch, index=torch.as_tensor(list(index), dtype=torch.long))

    def identity(self) -> str:
        text = self.base.identity() + ",".join(map(str, self.indices))
        return hashlib.sha256(text.encode()).hexdigest()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("base", "indices"):  # not there yet while unpickling
            raise AttributeError(name)
        value = getattr(self.base, name)
        if name == "groups":
            return None if value is None else [value[i] for i in self.indices]
        if name == "digests":
            return lambda: [digests[i] for digests in (value(),) for i in self.indices]
        if name == "target":
            return lambda rows: value([self.indices[i] for i in rows])
        if name == "picture":
            return lambda index: value(self.indices[index])
        if name in ("bind", "relabel", "with_frozen"):
            return lambda *args, **kwargs: SubsetDataset(value(*args, **kwargs), self.indices)
        return value


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _listed(items: Sequence[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
