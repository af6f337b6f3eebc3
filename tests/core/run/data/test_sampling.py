"""Few-shot samples, splits, weights and subsets are functions of labels and seed, and refuse what cannot be done."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pt_core.data import Batch, Dataset, stable_seed
from pt_core.errors import DataError
from pt_core.run.data.sampling import (
    SubsetDataset,
    class_weights,
    few_shot,
    fewer_shots,
    hold_out,
    stratified_split,
    with_classes,
)
from sklearn.model_selection import StratifiedShuffleSplit

LABELS = [0] * 40 + [1] * 25 + [2] * 10


class Numbers:
    """A data set of numbers whose training view records what it was keyed by."""

    classes = ("a", "b", "c")

    def __init__(self, labels: Sequence[int]) -> None:
        self.ids = [f"n{i}" for i in range(len(labels))]
        self.labels: Sequence[int] | None = list(labels)
        self.groups = [f"g{i // 5}" for i in range(len(labels))]

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> torch.Tensor:
        return torch.tensor([index, -1 if epoch is None else epoch, seed])

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        assert self.labels is not None
        target = torch.tensor([self.labels[i] for i in index])
        return Batch(torch.stack(list(samples)), target, torch.tensor(list(index)), [self.ids[i] for i in index])

    def identity(self) -> str:
        return f"numbers-{len(self)}"

    def digests(self) -> list[str]:
        return [f"d{i}" for i in range(len(self))]

    def picture(self, index: int) -> str:
        return f"picture {index}"

    def relabel(self, names: Sequence[str]) -> Numbers:
        return Numbers([names.index(self.classes[label]) for label in self.labels or []])

    def bind(self, name: str) -> Numbers:
        bound = Numbers(self.labels or [])
        bound.ids = [f"{name}-{text}" for text in self.ids]
        return bound


def test_few_shot_draws_k_per_class_and_only_the_seed_decides() -> None:
    chosen = few_shot(LABELS, 4, seed=0)
    assert Counter(LABELS[i] for i in chosen) == {0: 4, 1: 4, 2: 4}
    assert chosen == sorted(chosen) == few_shot(LABELS, 4, seed=0)
    assert len({tuple(few_shot(LABELS, 4, seed=seed)) for seed in range(5)}) == 5


def test_few_shot_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    few_shot(LABELS, 4, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_few_shot_of_more_shots_contains_that_of_fewer() -> None:
    assert set(few_shot(LABELS, 3, seed=7)) < set(few_shot(LABELS, 8, seed=7))


def test_few_shot_of_a_class_does_not_depend_on_the_others() -> None:
    alone = few_shot([0] * 40, 4, seed=3)
    assert alone == [i for i in few_shot(LABELS, 4, seed=3) if LABELS[i] == 0]


def test_few_shot_takes_what_a_class_has() -> None:
    chosen = few_shot(LABELS, 26, 0, ["a", "b", "c", "empty"])
    assert Counter(LABELS[i] for i in chosen) == {0: 26, 1: 25, 2: 10}
    assert [i for i in chosen if LABELS[i] == 0] == [i for i in few_shot(LABELS, 26, 0) if LABELS[i] == 0]
    assert set(few_shot(LABELS, 8, 0)) < set(chosen)
    note = fewer_shots(LABELS, 26, ["a", "b", "c", "empty"])
    assert note == "--shots 26: b has 25, c has 10, empty has 0, of which all are taken (--exact-shots refuses this)"
    assert fewer_shots(LABELS, 10, ["a", "b", "c"]) is None


def test_exact_few_shot_refuses_more_than_a_class_has_with_the_counts() -> None:
    with pytest.raises(DataError, match=r"--shots 26 .*b has 25, c has 10; lower --shots"):
        few_shot(LABELS, 26, 0, ["a", "b", "c"], exact=True)
    with pytest.raises(DataError, match="empty has 0"):
        few_shot(LABELS, 1, 0, ["a", "b", "c", "empty"], exact=True)
    with pytest.raises(DataError, match="--shots 0"):
        few_shot(LABELS, 0, 0)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_split_is_stratified_complete_and_seeded(fraction: float) -> None:
    kept, held = stratified_split(LABELS, fraction, seed=1)
    assert sorted(kept + held) == list(range(len(LABELS)))
    counts = Counter(LABELS[i] for i in held)
    for label, total in Counter(LABELS).items():
        assert abs(counts[label] - fraction * total) <= 1
    assert (kept, held) == stratified_split(LABELS, fraction, seed=1)
    assert held != stratified_split(LABELS, fraction, seed=2)[1]


@pytest.mark.parametrize("seed", range(20))
def test_split_draws_the_samples_that_scikit_learn_draws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.repeat(np.arange(5) * 3, rng.integers(2, 40, 5)))
    size = int(rng.integers(5, len(target) - 5))
    kept, held = stratified_split(target.tolist(), size / len(target), seed)
    splitter = StratifiedShuffleSplit(1, test_size=size, random_state=stable_seed(seed, "split") % 2**32)
    assert [kept, held] == [sorted(part.tolist()) for part in next(splitter.split(target[:, None], target))]


def test_split_of_tiny_classes_keeps_every_class_for_training() -> None:
    labels = [0, 0, 1, 1, 2, 2]
    kept, held = stratified_split(labels, 0.2, seed=0)
    assert {labels[i] for i in kept} == {0, 1, 2}
    assert len(held) == 3


def test_split_names_classes_that_are_too_small() -> None:
    with pytest.raises(DataError, match="every class needs 2 samples or more, but rare has 1"):
        stratified_split([0, 0, 0, 1], 0.2, 0, names=["common", "rare"])
    with pytest.raises(DataError, match="the data are empty"):
        stratified_split([], 0.2, 0)
    with pytest.raises(DataError, match=r"a share of 1\b"):
        stratified_split(LABELS, 1.0, 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25, 0.4])
def test_no_group_lies_on_both_sides(fraction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 400)
    labels = (groups + rng.integers(0, 2, 400)) % 4
    kept, held = stratified_split(labels.tolist(), fraction, seed, groups=[f"patient-{g}" for g in groups])
    assert not set(groups[kept]) & set(groups[held])
    assert sorted(kept + held) == list(range(400))
    assert set(labels[kept]) == set(labels[held]) == {0, 1, 2, 3}
    assert abs(len(held) / 400 - fraction) < 0.05


def test_a_grouped_split_depends_on_the_seed_only() -> None:
    labels, groups = LABELS, [f"g{i % 15}" for i in range(len(LABELS))]
    assert stratified_split(labels, 0.2, 0, groups) == stratified_split(labels, 0.2, 0, groups)
    assert len({tuple(stratified_split(labels, 0.2, seed, groups)[1]) for seed in range(6)}) > 1


def test_few_groups_are_split_as_far_as_they_allow() -> None:
    labels, groups = [0, 1] * 20, ["left"] * 20 + ["right"] * 20
    kept, held = stratified_split(labels, 0.2, 0, groups)
    assert {groups[i] for i in kept} != {groups[i] for i in held}
    assert len(kept) == len(held) == 20
    with pytest.raises(DataError, match="cannot split 1 groups .*; class 0, class 1 lie in one group each"):
        stratified_split(labels, 0.2, 0, ["one"] * 40)
    with pytest.raises(DataError, match="40 samples"):
        stratified_split(labels, 0.2, 0, ["one"] * 39)


def test_a_class_within_one_group_stays_in_training() -> None:
    labels = [0] * 30 + [1] * 30 + [2] * 6 + [3] * 5
    groups = [f"g{i % 10}" for i in range(60)] + ["rare"] * 6 + ["rarer"] * 5
    for seed in range(12):
        kept, held = stratified_split(labels, 0.2, seed, groups)
        assert {labels[i] for i in kept} == {0, 1, 2, 3}
        assert {labels[i] for i in held} >= {0, 1}


def test_classes_that_no_grouped_split_can_keep_are_named() -> None:
    with pytest.raises(DataError, match="cat, dog lie in one group each"):
        stratified_split([0] * 10 + [1] * 10, 0.5, 0, ["x"] * 10 + ["y"] * 10, names=["cat", "dog"])


def test_hold_out_gives_two_subsets_and_honours_groups() -> None:
    base = Numbers(LABELS)
    kept, held = hold_out(base, 0.2, 0)
    assert len(kept) + len(held) == len(base)
    assert not set(kept.groups) & set(held.groups)
    kept.labels = None  # without classes: at random, and still by group
    first, second = hold_out(kept, 0.2, 0)
    assert sorted([*first.ids, *second.ids]) == sorted(kept.ids)
    assert not set(first.groups) & set(second.groups)


def test_with_classes_translates_indices_by_name() -> None:
    base = Numbers([0, 1, 2])
    assert with_classes(base, ["a", "b", "c"]) is base
    assert with_classes(base, []) is base
    other = with_classes(base, ["c", "x", "b", "a"])
    assert other.labels == [3, 2, 0]
    assert with_classes(SubsetDataset(base, [2]), ["c", "b", "a"]).labels == [0]


def test_class_weights_have_mean_one_over_the_samples() -> None:
    weights = class_weights(LABELS, 4)
    assert weights.tolist()[3] == 0
    assert weights[torch.tensor(LABELS)].mean().item() == pytest.approx(1)
    assert (weights[0] / weights[2]).item() == pytest.approx(10 / 40)
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        class_weights(LABELS, 2)


def test_subset_renumbers_samples_and_keeps_their_augmentation_key() -> None:
    base = Numbers(LABELS)
    subset = SubsetDataset(base, [50, 3, 70])
    assert isinstance(subset, Dataset)
    assert (len(subset), list(subset.ids), subset.labels) == (3, ["n50", "n3", "n70"], [1, 0, 2])
    assert torch.equal(subset.sample(2, epoch=4, seed=9), base.sample(70, epoch=4, seed=9))
    batch = subset.collate([2, 0], [subset.sample(i, epoch=None, seed=0) for i in (2, 0)])
    assert batch.index.tolist() == [2, 0]
    assert (batch.target.tolist(), batch.ids) == ([2, 1], ["n70", "n50"])


def test_subset_passes_on_what_the_base_offers() -> None:
    subset = SubsetDataset(Numbers(LABELS), [50, 3, 70])
    assert subset.groups == ["g10", "g0", "g14"]
    assert subset.digests() == ["d50", "d3", "d70"]
    assert subset.picture(1) == "picture 3"
    assert subset.classes == ("a", "b", "c")
    assert list(subset.bind("vit").ids) == ["vit-n50", "vit-n3", "vit-n70"]
    with pytest.raises(AttributeError):
        _ = subset.nothing_of_this_name


def test_subset_of_a_subset_refers_to_the_base() -> None:
    base = Numbers(LABELS)
    inner = SubsetDataset(SubsetDataset(base, [50, 3, 70]), [2, 0])
    assert inner.base is base
    assert inner.indices == [70, 50]
    with pytest.raises(IndexError):
        SubsetDataset(base, [75])


def test_subset_identity_tells_selections_apart() -> None:
    base = Numbers(LABELS)
    identities = {SubsetDataset(base, rows).identity() for rows in ([0, 1], [1, 0], [0], [1, 2])}
    assert len(identities | {base.identity()}) == 5
    assert SubsetDataset(base, [0, 1]).identity() == SubsetDataset(Numbers(LABELS), [0, 1]).identity()


def test_subset_survives_pickling() -> None:
    subset = pickle.loads(pickle.dumps(SubsetDataset(Numbers(LABELS), [50, 3])))
    assert list(subset.ids) == ["n50", "n3"]
    assert subset.groups == ["g10", "g0"]
