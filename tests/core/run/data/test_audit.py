"""The audit finds copies, imbalance, near-empty classes and shared groups, and says nothing where there is nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pt_core.data import Batch
from pt_core.run.data.audit import SHOWN, audit


class Samples:
    def __init__(
        self,
        name: str,
        labels: Sequence[int] | None,
        contents: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        classes: Sequence[str] = ("cat", "dog"),
    ) -> None:
        size = len(labels if labels is not None else contents or [])
        self.ids = [f"{name}/{i}" for i in range(size)]
        self.labels = labels
        self.groups, self.classes = groups, classes
        self.contents = contents if contents is not None else self.ids

    def __len__(self) -> int:
        return len(self.ids)

    def digests(self) -> Sequence[str]:
        return self.contents

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        return index

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        raise AssertionError("an audit reads no samples")

    def identity(self) -> str:
        return "x"


class Bare(Samples):
    digests = None  # type: ignore[assignment]


def test_clean_data_give_counts_and_no_warning() -> None:
    found = audit({"train": Samples("a", [0, 1] * 10), "val": Samples("b", [0, 1] * 3)})
    assert found.warnings == []
    assert found.counts == {"train": {"cat": 10, "dog": 10}, "val": {"cat": 3, "dog": 3}}
    assert found.imbalance == {"train": 1.0, "val": 1.0}


def test_the_table_is_short_and_aligned() -> None:
    found = audit({"train": Samples("a", [0] * 1500 + [1] * 300), "test": Samples("b", [0, 1, 1])})
    assert found.table().splitlines() == [
        "class             train  test",
        "cat               1,500     1",
        "dog                 300     2",
        "all               1,800     3",
        "largest/smallest    5.0   2.0",
    ]


def test_the_table_of_many_classes_shows_the_largest_and_the_smallest() -> None:
    names = [f"class-{i:03d}" for i in range(100)]
    labels = [label for label in range(100) for _ in range(label + 5)]
    table = audit({"train": Samples("a", labels, classes=names)}).table()
    assert len(table.splitlines()) == SHOWN + 4
    assert "class-000" in table
    assert "class-099" in table
    assert "... 88 more" in table


def test_copies_across_parts_are_counted_with_an_example() -> None:
    train = Samples("a", [0, 1] * 10, [f"content-{i}" for i in range(20)])
    test = Samples("b", [0, 1, 0, 1], ["content-4", "new", "content-6", "other"])
    found = audit({"train": train, "test": test})
    assert found.duplicates == {"train/test": 2}
    assert found.examples == {"train/test": [("a/4", "b/0"), ("a/6", "b/2")]}
    assert found.warnings == ["samples of train that are also in test: 2 (a/4 = b/0); results on test are optimistic"]


def test_copies_within_a_part_and_contradicting_labels_are_found() -> None:
    contents = ["same", "same", "same", *(f"content-{i}" for i in range(17))]
    found = audit({"train": Samples("a", [0, 1] * 10, contents)})
    assert found.duplicates == {"train": 2}
    assert found.conflicts == [("a/0", "a/1")]
    assert found.warnings == [
        "repeated samples in train: 2 (a/0 = a/1)",
        "pairs of equal content and different class: 1 (such as a/0 = a/1)",
    ]


def test_imbalance_near_empty_and_absent_classes() -> None:
    train = Samples("a", [0] * 60 + [1] * 3, classes=("cat", "dog", "eel"))
    found = audit({"train": train, "val": Samples("b", [0, 0], classes=("cat", "dog", "eel"))})
    assert found.imbalance["train"] == 20
    assert found.warnings == [
        "training classes are imbalanced (60 to 3): consider --class-weights or --balanced",
        "classes with fewer than 5 training samples: dog (3), eel (0)",
        "classes that val has no sample of, so that it says nothing of them: dog",
    ]


def test_groups_on_both_sides_are_named() -> None:
    train = Samples("a", [0, 1] * 5, groups=[f"p{i}" for i in range(10)])
    val = Samples("b", [0, 1], groups=["p3", "p77"])
    found = audit({"train": train, "val": val})
    assert found.shared_groups == {"train/val": ["p3"]}
    assert found.warnings == ["groups in both train and val: 1 ('p3' ...); results on val are optimistic"]


def test_unlabelled_data_and_data_without_digests_are_counted() -> None:
    found = audit({"train": Bare("a", [0, 1] * 5), "unlabeled": Samples("u", None, ["x", "y"])})
    assert found.counts["unlabeled"] == {"": 2}
    assert "(no class)" in found.table()
    assert found.duplicates == {}


def test_to_json_is_plain() -> None:
    train = Samples("a", [0, 1] * 5, ["same"] * 10, groups=["p"] * 10)
    found = audit({"train": train, "val": Samples("b", [0, 1], ["same"] * 2, groups=["p"] * 2)})
    content = json.loads(json.dumps(found.to_json()))
    assert content["duplicates"] == {"train": 9, "train/val": 2, "val": 1}
    assert content["shared_groups"] == {"train/val": ["p"]}
    assert content["warnings"] == found.warnings
