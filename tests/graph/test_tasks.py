"""Tasks: missing labels take part in nothing, AUCs with one label are left out, cards come back checked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pt_core.errors import ArtifactError, DataError
from pt_graph.modality import Graph
from pt_graph.tasks.binary import BinaryTasks
from pt_graph.tasks.classification import GraphClassification
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from tests.graph.methods.common import batch, data

TARGET = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]])
LOGITS = torch.tensor([[0.3, 9.0], [1.0, -0.5], [5.0, 2.0]])


def labelled(target=TARGET, logits=LOGITS):
    rows = len(target)
    return replace(batch("molecules", *range(rows)), target=target), {"logits": logits}


def test_loss_over_valid_labels():
    task = BinaryTasks(["a", "b"])
    one, found = labelled()
    loss, count = task.loss(found["logits"], one)
    bce = F.binary_cross_entropy_with_logits
    want = [bce(LOGITS[i, j], torch.tensor(y)) for i, j, y in ((0, 0, 1.0), (1, 0, 0.0), (1, 1, 1.0), (2, 1, 1.0))]
    assert count == 4
    assert float(loss) == pytest.approx(float(sum(want)) / 4)
    empty, _ = labelled(torch.zeros(3, 2))
    loss, count = task.loss(LOGITS.clone().requires_grad_(), empty)
    assert (float(loss.detach()), count) == (0.0, 0)


def test_auc_is_the_mean_over_properties_with_both_labels():
    task = BinaryTasks(["a", "b", "c"])
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(-1, 2, (6, 3), generator=rng).float()
    target[:, 0] = torch.tensor([1, -1, 1, -1, 0, 1.0])
    target[:, 2] = target[:, 2].abs()  # one label only
    logits = torch.randn(6, 3, generator=rng)
    evaluator = task.evaluator()
    for part in (slice(0, 2), slice(2, 6)):
        one, _ = labelled(target[part])
        evaluator.update({"logits": logits[part], "pcr": torch.full((len(target[part]),), 0.5)}, one)
    found = evaluator.compute()
    aucs = []
    for column in range(2):
        rows = target[:, column] != 0
        if len(target[rows, column].unique()) == 2:
            aucs.append(roc_auc_score(target[rows, column] > 0, logits[rows, column]))
    assert found["roc_auc"] == pytest.approx(sum(aucs) / len(aucs))
    assert found["tasks_scored"] == pytest.approx(len(aucs) / 3)
    assert found["pcr"] == 0.5
    rows = evaluator.tables()["per_class"]
    assert rows[2]["roc_auc"] == "one label only"
    assert rows[0]["missing"] == 1


def test_no_property_with_both_labels_has_no_auc():
    task = BinaryTasks(["a"])
    evaluator = task.evaluator()
    one, _ = labelled(torch.ones(3, 1))
    evaluator.update({"logits": torch.zeros(3, 1)}, one)
    found = evaluator.compute()
    assert found["roc_auc"] != found["roc_auc"]
    assert found["tasks_scored"] == 0


def test_records():
    one, found = labelled(torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([[2.0], [1.0], [-1.0]]))
    rows = BinaryTasks(["tox"]).records({**found, "pcr": torch.tensor([0.1, 0.2, 0.3])}, one)
    assert rows[0]["predicted"] == "tox: yes"
    assert rows[0]["correct"] is True
    assert rows[1]["correct"] is False
    assert "correct" not in rows[2]
    assert rows[2]["score"] == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))))
    assert rows[1]["pcr"] == pytest.approx(0.2)
    assert BinaryTasks(["tox"]).line(rows[0]).endswith("tox=0.8808")
    many = BinaryTasks(["a", "b"]).records(labelled()[1], labelled()[0])
    assert many[0]["a"] == 1
    assert "b" not in many[0]
    classes = GraphClassification(["x", "y"]).records(
        {"logits": torch.eye(2), "pcr": torch.tensor([0.1, 0.2])}, batch("shapes", 0, 1)
    )
    assert classes[1]["pcr"] == pytest.approx(0.2)


def test_cards_come_back():
    for task in (BinaryTasks(["a", "b"], 30), GraphClassification(["x", "y"])):
        again = Graph().task_from_json({"name": task.name, **task.to_json()})
        assert (again.labels, again.largest) == (task.labels, task.largest)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "other"},
        {"name": "binary"},
        {"name": "binary", "labels": "ab"},
        {"name": "binary", "labels": ["a"], "largest": -1},
        {"name": "binary", "labels": ["a"], "more": 1},
        {"name": "binary", "labels": [1]},
        {"name": "classification", "labels": ["a", "b"], "largest": "many"},
        {"name": "classification", "labels": ["a"]},
    ],
)
def test_cards_are_checked(spec):
    with pytest.raises(ArtifactError):
        Graph().task_from_json(spec)


def test_data_of_another_task():
    task = BinaryTasks(["a", "b"])
    with pytest.raises(DataError, match="has the properties acid_ring, alkyl_halide"):
        task.check_dataset(data("molecules")["train"], "train")
    with pytest.raises(DataError, match="no binary labels"):
        task.check_dataset(data("shapes")["train"], "train")
    blank = replace(data("molecules")["train"], targets=torch.zeros(12, 2), tasks=["a", "b"])
    with pytest.raises(DataError, match="no label at all"):
        task.check_dataset(blank, "train")
    with pytest.raises(DataError, match="names of their own"):
        BinaryTasks(["a", "a"])


def test_what_labels_leave_undefined_is_said_before_training():
    task = BinaryTasks(["a", "b"])

    class Part:
        def __init__(self, target):
            self.values = torch.tensor(target)

        def __len__(self):
            return len(self.values)

        def target(self, rows):
            return self.values[list(rows)]

    assert task.undefined(Part([[1.0, -1.0], [-1.0, 1.0]]), "test") == ()
    assert task.undefined(Part([[1.0, -1.0], [0.0, 1.0]]), "test") == (
        "the test part has one label only of a: ROC-AUC leaves them out",
    )
    (said,) = task.undefined(Part([[1.0, -1.0], [1.0, 0.0]]), "val")
    assert said == "the val part has one label only of every property, so ROC-AUC cannot be measured there"
    assert task.directions(["roc_auc", "tasks_scored", "nll"]) == {"roc_auc": "max", "nll": "min"}
