"""Scenarios: which windows a part holds, what a target's labels are used for, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from pt_core.errors import ArtifactError, DataError
from pt_core.run.data.sampling import SubsetDataset
from pt_core.run.declare.options import ClassificationOptions
from pt_timeseries.data.dataset import domains_of
from pt_timeseries.data.division import divide
from pt_timeseries.data.domains import Domain, collect
from pt_timeseries.data.scenario import load_windows
from pt_timeseries.data.windows import cut_windows
from pt_timeseries.options import DataOptions
from pt_timeseries.pond.streams import domain_rows
from pt_timeseries.tasks.classification import DomainClassification

OPTIONS = DataOptions(target=("c",), target_shots=2)


def domain(
    name: str, size: int = 12, channels: int = 2, steps: int = 16, labels: str = "xyz", groups: int = 0
) -> Domain:
    rng = np.random.default_rng(sum(map(ord, name)))
    values = rng.normal(size=(size, channels, steps)).astype(np.float32)
    names = [labels[row % len(labels)] for row in range(size)]
    return Domain(name, values, names, [f"r{row * groups // size}" for row in range(size)] if groups else None)


@pytest.fixture
def archive(tmp_path):
    def write(*domains: Domain, name: str = "data.npz", **arrays):
        path = tmp_path / name
        found = {
            "x": np.concatenate([d.values for d in domains]),
            "y": np.array([label for d in domains for label in d.labels or ()]),
            "domain": np.array([d.name for d in domains for _ in range(len(d))]),
        }
        if domains[0].groups is not None:
            found["group"] = np.array([group for d in domains for group in d.groups or ()])
        np.savez(path, **{**found, **arrays})
        return str(path)

    return write


def three(**changes) -> list[Domain]:
    return [domain(name, **changes) for name in "abc"]


# ---- the parts -------------------------------------------------------------------------------------------------------------


def test_the_target_is_left_out_and_divided(archive):
    parts = load_windows(archive(*three(size=30)), OPTIONS, 0)
    assert set(parts) == {"train", "val", "unlabeled", "shots", "test"}
    assert set(parts["train"].domains) == set(parts["val"].domains) == {"a", "b"}
    assert set(parts["test"].domains) == set(parts["shots"].domains) == set(parts["unlabeled"].domains) == {"c"}
    ids = [name for part in parts.values() for name in part.ids]
    assert len(ids) == len(set(ids)) == 90  # every window is in one part
    assert parts["unlabeled"].labels is None
    assert Counter(parts["shots"].labels) == {0: 2, 1: 2, 2: 2}
    assert len(parts["test"]) == 15
    assert list(parts["train"].classes) == ["x", "y", "z"]


def test_fixed_lists_patterns_and_no_shots(archive):
    path = archive(*[domain(name) for name in ("p:1", "p:2", "w:1", "w:2")])
    parts = load_windows(path, DataOptions(target=("w:*",), sources=("p:2",), target_shots=0), 0)
    assert set(parts["train"].domains) == {"p:2"}
    assert set(parts["test"].domains) == {"w:1", "w:2"}
    assert "shots" not in parts
    assert "only source" in " ".join(parts["train"].notes)


def test_recordings_stay_on_one_side(archive):
    for seed in range(3):
        parts = load_windows(archive(*three(size=24, groups=6)), replace(OPTIONS, target_shots=1), seed)
        for left, right in (("train", "val"), ("shots", "test"), ("unlabeled", "test")):
            sides = [
                {(d, int(i.split("/")[1]) // 4) for d, i in zip(parts[r].domains, parts[r].ids, strict=True)}
                for r in (left, right)
            ]
            assert not sides[0] & sides[1]


def test_without_recordings_the_cut_is_in_time():
    kept, held = divide(domain("a", 30), 0.4, 0)
    for row in range(3):  # of every class the last windows
        assert max(r for r in kept if r % 3 == row) < min(r for r in held if r % 3 == row)
    assert len(held) == 12


def test_the_files_own_division_is_kept():
    given = replace(domain("a"), parts=["train"] * 8 + ["test"] * 4)
    assert divide(given, 0.5, 0) == (list(range(8)), list(range(8, 12)))


def test_splits_and_shots_follow_the_seed(archive):
    path = archive(*three(size=60, groups=10))
    first, again, other = (load_windows(path, OPTIONS, seed) for seed in (0, 0, 1))
    assert all(first[role].ids == again[role].ids for role in first)
    assert first["test"].ids != other["test"].ids
    assert first["train"].identity() == again["train"].identity() != other["train"].identity()


# ---- normalisation ---------------------------------------------------------------------------------------------------------


def test_z_scores_use_the_sources_training_windows_only(archive):
    domains = three(size=30)
    domains[2].values[:] *= 7
    domains[2].values[:] += 3
    parts = load_windows(archive(*domains), OPTIONS, 0)
    task = DomainClassification.of(ClassificationOptions(), parts["train"])
    train = parts["train"].bind(task).values
    torch.testing.assert_close(train.mean((0, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std((0, 2)), torch.ones(2), atol=1e-2, rtol=0)
    assert float(parts["test"].bind(task).values.std()) > 4
    mean, std = task.statistics
    torch.testing.assert_close(parts["test"].bind(task).values, (parts["test"].values - mean[:, None]) / std[:, None])


def test_statistics_per_domain_are_a_named_choice(archive):
    domains = three(size=30)
    domains[2].values[:] *= 7
    parts = load_windows(archive(*domains), replace(OPTIONS, normalise="domain"), 0)
    task = DomainClassification.of(ClassificationOptions(), parts["train"])
    assert task.statistics is None
    for values in (parts["test"].bind(task).values, parts["train"].values[[d == "b" for d in parts["train"].domains]]):
        torch.testing.assert_close(values.std((0, 2), correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_a_constant_channel_stays_constant(archive):
    domains = three(size=30)
    for d in domains:
        d.values[:, 0] = 5.0
    parts = load_windows(archive(*domains), OPTIONS, 0)
    task = DomainClassification.of(ClassificationOptions(), parts["train"])
    assert float(task.statistics[1][0]) == pytest.approx(1e-6)
    assert parts["test"].bind(task).values[:, 0].abs().max() == 0


def test_the_task_comes_back_from_its_json(archive):
    parts = load_windows(archive(*three(size=30)), OPTIONS, 0)
    task = DomainClassification.of(ClassificationOptions(label_smoothing=0.1), parts["train"])
    again = DomainClassification.from_json(task.to_json())
    assert again.sources == task.sources == ("a", "b")
    assert again.label_smoothing == 0.1
    torch.testing.assert_close(again.statistics[0], task.statistics[0])
    good = task.to_json()
    for bad in (
        {"sources": "a"},
        {"normalise": "magic"},
        {"mean": [0.0, "1"]},
        {"std": [1.0, -1.0]},
        {"std": [1.0]},
        {"extra": 1},
    ):
        with pytest.raises(ArtifactError):
            DomainClassification.from_json({**good, **bad})


def test_domains_of_batches_index_the_sources(archive):
    parts = load_windows(archive(*three(size=30)), OPTIONS, 0)
    task = DomainClassification.of(ClassificationOptions(), parts["train"])
    train, test = parts["train"].bind(task), parts["test"].bind(task)
    batch = train.collate([0, len(train) - 1], [train.values[0], train.values[-1]])
    assert batch.extra["domain"].tolist() == [0, 1]
    assert set(test.domain_index.tolist()) == {-1}
    some = SubsetDataset(train, [0, 5, len(train) - 1])
    assert domains_of(some) == ["a", "a", "b"]
    assert domain_rows(some, ["a", "b"]) == [(0, 1), (2,)]


# ---- windows ---------------------------------------------------------------------------------------------------------------


def test_windows_carry_the_label_of_most_steps():
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    labels = list("aaabbbbccc")
    cut, found = cut_windows(values, labels, 4, 3, "r")
    assert cut.shape == (3, 2, 4)
    assert found == ["a", "b", "c"]
    assert cut[1, 0].tolist() == [6, 8, 10, 12]
    assert cut_windows(values, list("aabb" + "cccccc"), 4, 4, "r")[1] == ["a", "c"]  # of equal counts the first
    short, none = cut_windows(values[:3], labels[:3], 4, 1, "r")
    assert (short.shape, none) == ((0, 2, 4), [])
    with pytest.raises(DataError, match="10 steps and 3 labels"):
        cut_windows(values, labels[:3], 4, 1, "r")


# ---- what is refused -------------------------------------------------------------------------------------------------------


def with_nan() -> Domain:
    bad = domain("b")
    bad.values[3, 1, 2] = np.nan
    return bad


REFUSED = [
    ([domain("a"), domain("b", channels=3), domain("c")], OPTIONS, "domain 'b' .* has 3 channels, the others have 2"),
    ([domain("a"), domain("b"), domain("c", steps=20)], OPTIONS, "domain 'c' .* has 20 steps, the others have 16"),
    ([domain("a"), with_nan(), domain("c")], OPTIONS, "domain 'b' .* 1 windows with NaN .*window 3"),
]


@pytest.mark.parametrize(("domains", "options", "message"), REFUSED)
def test_domains_that_do_not_fit_are_named(domains, options, message):
    with pytest.raises(DataError, match=message):
        collect(domains, "the data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DataOptions(), "name the target domain with --target; .* has: a, b, c"),
        (DataOptions(target=("d",)), "--target 'd': .* has no such domain.*a, b, c"),
        (DataOptions(target=("*",)), "no domain besides the target"),
        (DataOptions(target=("c",), sources=("*",)), "'c' is both source and target"),
        (DataOptions(target=("c",), sources=("e",)), "--sources 'e'"),
        (DataOptions(target=("c",), target_shots=3, exact_target_shots=True), "--target-shots 3 is more .* x has 2"),
    ],
)
def test_scenarios_that_cannot_be_are_refused(archive, options, message):
    with pytest.raises(DataError, match=message):
        load_windows(archive(*three()), options, 0)


def test_a_target_class_that_no_source_has_is_refused(archive):
    with pytest.raises(DataError, match="target 'c' .* class 'w', which no source has"):
        load_windows(archive(domain("a"), domain("b"), domain("c", labels="xyw")), OPTIONS, 0)


def test_a_source_that_lacks_a_class_is_noted(archive):
    parts = load_windows(
        archive(domain("a"), domain("b", labels="xy"), domain("c")), replace(OPTIONS, target_shots=1), 0
    )
    assert "source 'b' has no window of z" in parts["train"].notes


def test_names_occur_once():
    with pytest.raises(DataError, match="two domains named 'a'"):
        collect([domain("a"), domain("a")], "the data")
    with pytest.raises(DataError, match="holds no window"):
        collect([], "the data")
