"""Classification: an exact loss, metrics as scikit-learn has them however sharded, strict JSON, clear refusals."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.distributed as dist
from pt_core.data import Batch
from pt_core.errors import ArtifactError, DataError
from pt_core.run.tasks.classification import MAX_CLASSES, Classification
from pt_core.run.tasks.metrics import MATRIX_LIMIT, auroc, quadratic_kappa
from torch.nn import functional as F

from tests.core.run.forked import ranks


def names(classes):
    return [f"c{number}" for number in range(classes)]


def sample(size=60, classes=4, seed=0, skip=()):
    """Logits that favour the target; classes in `skip` occur neither as target nor as prediction."""
    rng = torch.Generator().manual_seed(seed)
    kept = torch.tensor([label for label in range(classes) if label not in skip])
    target = kept[torch.randint(len(kept), (size,), generator=rng)]
    logits = torch.randn(size, classes, generator=rng) + 1.2 * F.one_hot(target, classes)
    logits[:, list(skip)] -= 100
    return logits, target


def batch(target, start=0):
    size = len(target)
    return Batch(None, target, torch.arange(size), [f"s{start + number}" for number in range(size)])


def evaluate(task, logits, target, size=7):
    evaluator = task.evaluator()
    for start in range(0, len(target), size):
        rows = slice(start, start + size)
        evaluator.update(task.predict(logits[rows]), batch(target[rows]))
    return evaluator.compute(), evaluator


# -- loss --


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_the_weighted_sum_over_the_batch_size(weighted, smoothing):
    logits, target = sample()
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0]) if weighted else None
    loss, count = Classification(names(4), weights, smoothing).loss(logits, batch(target))
    w = torch.ones(4) if weights is None else weights
    log = logits.log_softmax(-1)
    smooth = (1 - smoothing) * F.one_hot(target, 4) + smoothing / 4
    assert count == 60
    assert loss == pytest.approx(float(-(smooth * w * log).sum() / 60), rel=1e-5)


@pytest.mark.parametrize("parts", [(60,), (30, 30), (1, 19, 40)])
def test_loss_times_count_adds_up_over_micro_batches(parts):
    task = Classification(names(4), torch.tensor([0.5, 2.0, 1.0, 0.3]), 0.1)
    logits, target = sample()
    logits.requires_grad_()
    whole, count = task.loss(logits, batch(target))
    (expected,) = torch.autograd.grad(whole, logits)
    total = 0.0
    for some, labels in zip(logits.split(parts), target.split(parts), strict=True):
        loss, n = task.loss(some, batch(labels))
        total = total + loss * n
    (found,) = torch.autograd.grad(total / count, logits)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_loss_takes_logits_of_any_precision(dtype):
    logits, target = sample()
    loss, _ = Classification(names(4), torch.ones(4)).loss(logits.to(dtype), batch(target))
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, target)), rel=1e-2)


def test_loss_refuses_weights_that_make_no_sense():
    for weights in (torch.ones(3), torch.tensor([1.0, -1.0]), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="class_weights"):
            Classification(names(2), weights)
    with pytest.raises(ValueError, match="label_smoothing"):
        Classification(names(2), label_smoothing=1.0)


# -- metrics --


@pytest.mark.parametrize(("classes", "skip"), [(2, ()), (4, ()), (6, (0, 3)), (12, (11,))])
def test_metrics_agree_with_scikit_learn(classes, skip):
    logits, target = sample(80, classes, skip=skip)
    found, evaluator = evaluate(Classification(names(classes), ordinal=True), logits, target)
    truth, guess = target.numpy(), logits.argmax(-1).numpy()
    scores = logits.double().softmax(-1).numpy()
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, guess))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, guess, average="macro"))
    for name in ("precision", "recall"):
        score = getattr(sklearn.metrics, f"{name}_score")
        assert found[f"macro_{name}"] == pytest.approx(score(truth, guess, average="macro", zero_division=0))
    # Without `labels` scikit-learn closes the gaps that missing grades leave; we keep the distances.
    kappa = sklearn.metrics.cohen_kappa_score(truth, guess, labels=range(classes), weights="quadratic")
    assert found["kappa"] == pytest.approx(kappa)
    assert found["nll"] == pytest.approx(sklearn.metrics.log_loss(truth, scores, labels=range(classes)), rel=1e-5)
    if classes == 2:
        assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(truth, scores[:, 1]))
    tables = evaluator.tables()
    matrix = sklearn.metrics.confusion_matrix(truth, guess, labels=range(classes))
    assert tables["confusion"] == {"labels": names(classes), "matrix": matrix.tolist()}
    expected = sklearn.metrics.precision_recall_fscore_support(truth, guess, labels=range(classes), zero_division=0)
    rows = [[row[key] for row in tables["per_class"]] for key in ("precision", "recall", "f1", "support")]
    assert np.allclose(rows, expected)
    json.dumps(tables)


def test_calibration_error_agrees_with_torchmetrics():
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, target = sample(500, 5)
    found, _ = evaluate(Classification(names(5)), logits, target)
    assert found["ece"] == pytest.approx(
        float(multiclass_calibration_error(logits.softmax(-1), target, 5, n_bins=15)), rel=1e-5
    )


def test_metrics_do_not_depend_on_the_batches():
    logits, target = sample(53)
    task = Classification(names(4), ordinal=True)
    whole, _ = evaluate(task, logits, target, 53)
    assert evaluate(task, logits, target, 1)[0] == pytest.approx(whole, rel=1e-6)


def test_kappa_and_auroc_appear_where_they_mean_something():
    assert {"kappa", "auroc"}.isdisjoint(evaluate(Classification(names(4)), *sample())[0])
    assert "auroc" in evaluate(Classification(names(2)), *sample(classes=2))[0]


def test_confident_predictions_keep_their_order_in_auroc():
    # Every probability rounds to 1 in float32; the margins still tell the classes apart.
    logits = torch.tensor([[0.0, 20.0], [0.0, 30.0], [0.0, 40.0], [0.0, 50.0]])
    found, _ = evaluate(Classification(names(2)), logits, torch.tensor([0, 0, 1, 1]))
    assert found["auroc"] == 1.0


def test_auroc_with_one_class_is_nan():
    found, _ = evaluate(Classification(names(2)), sample(classes=2)[0], torch.zeros(60, dtype=torch.long))
    assert math.isnan(found["auroc"])
    assert math.isnan(auroc(torch.tensor([math.nan]), torch.tensor([1.0])))
    assert auroc(torch.tensor([2.0, 2.0]), torch.tensor([2.0])) == 0.5


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_auroc_is_the_area_of_scikit_learn_with_and_without_ties(spread):
    rng = torch.Generator().manual_seed(0)
    for size in (1, 7, 300):
        negative, positive = torch.randn(size, generator=rng), torch.randn(2 * size, generator=rng) + 0.5
        negative, positive = (torch.round(part * spread) for part in (negative, positive))
        truth = [0] * len(negative) + [1] * len(positive)
        expected = sklearn.metrics.roc_auc_score(truth, torch.cat([negative, positive]).numpy())
        assert auroc(negative, positive) == pytest.approx(expected, abs=1e-6)


def test_kappa_of_one_true_and_predicted_class_is_nan_with_a_warning():
    logits = torch.tensor([[5.0, 0.0, 0.0]] * 4)
    with pytest.warns(RuntimeWarning, match="0/0"):
        found, _ = evaluate(Classification(names(3), ordinal=True), logits, torch.zeros(4, dtype=torch.long))
    assert math.isnan(found["kappa"])
    assert found["accuracy"] == found["balanced_accuracy"] == 1.0
    with pytest.warns(RuntimeWarning, match="0/0"):
        assert math.isnan(quadratic_kappa(torch.zeros(3, 3)))
    assert quadratic_kappa(torch.tensor([[0, 3], [0, 0]])) == 0.0  # two classes, no agreement beyond chance


def test_no_samples_give_nan_and_empty_support():
    evaluator = Classification(names(3)).evaluator()
    assert all(math.isnan(value) for value in evaluator.compute().values())
    assert [row["support"] for row in evaluator.tables()["per_class"]] == [0, 0, 0]


def test_logits_that_are_nan_end_in_nan_not_in_a_crash():
    logits, target = sample(classes=2)
    logits[3] = math.nan
    found, _ = evaluate(Classification(names(2)), logits, target)
    assert all(math.isnan(found[name]) for name in ("nll", "ece", "auroc"))


def test_evaluating_without_labels_is_refused():
    with pytest.raises(DataError, match="no labels"):
        Classification(names(2)).evaluator().update(
            {"logits": torch.zeros(1, 2)}, Batch(None, None, torch.zeros(1), ["a"])
        )


def test_many_classes_need_no_square_memory():
    classes = MAX_CLASSES
    target = torch.tensor([0, classes - 1, 5])
    logits = torch.zeros(3, classes)
    logits[range(3), [0, classes - 1, 6]] = 9.0
    found, evaluator = evaluate(Classification(names(classes)), logits, target)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["macro_f1"] == pytest.approx(2 / 4)
    assert "confusion" not in evaluator.tables()


def shard(folder, rank):
    """What one of two processes finds, for every case of SHARDED."""
    dist.init_process_group("gloo")
    found = []
    for size, classes in SHARDED:
        logits, target = sample(size, classes)
        evaluator = Classification(names(classes), ordinal=size > 1).evaluator()
        for part in torch.arange(size)[rank::2].split(4):
            if len(part):
                evaluator.update({"logits": logits[part]}, batch(target[part]))
        found.append([evaluator.compute(), evaluator.tables(), evaluator.compute()])
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


SHARDED = [(61, 2), (61, 5), (1, 2)]
"""(samples, classes); in the last case one process has no sample."""


def test_two_processes_give_the_result_of_one(tmp_path):
    assert ranks(2, lambda rank: shard(tmp_path, rank)) == [0, 0]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for (metrics, tables, again), (size, classes) in zip(found, SHARDED, strict=True):
            task = Classification(names(classes), ordinal=size > 1)
            expected, evaluator = evaluate(task, *sample(size, classes))
            assert metrics == pytest.approx(expected, rel=1e-6, nan_ok=True)
            assert again == pytest.approx(expected, rel=1e-6, nan_ok=True)
            assert tables == evaluator.tables()
            assert sum(row["support"] for row in tables["per_class"]) == size


# -- records --


def test_records_name_the_best_classes_with_their_scores():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 9.0, 1.0]])
    task = Classification(["ant", "bee", "cat", "dog"])
    rows = task.records(task.predict(logits), batch(torch.tensor([0, 1])))
    assert list(rows[0]) == ["id", "label", "predicted", "score", "correct", "top2", "top2_score", "top3", "top3_score"]
    assert [row["id"] for row in rows] == ["s0", "s1"]
    assert [(row["label"], row["predicted"], row["correct"]) for row in rows] == [
        ("ant", "ant", True),
        ("bee", "cat", False),
    ]
    assert [row["top2"] for row in rows] == ["bee", "dog"]
    scores = logits.softmax(-1)
    assert rows[0]["score"] == pytest.approx(float(scores[0, 0]))
    assert rows[0]["top3_score"] == pytest.approx(float(scores[0, 2]))
    json.dumps(rows)


def test_records_without_targets_have_no_label():
    task = Classification(names(2))
    (row,) = task.records({"logits": torch.tensor([[0.0, 1.0]])}, Batch(None, None, torch.zeros(1), ["a.png"]))
    assert list(row) == ["id", "predicted", "score", "top2", "top2_score"]


# -- data --


def dataset(labels):
    return SimpleNamespace(labels=labels, ids=[f"s{number}" for number in range(len(labels or ()))])


@pytest.mark.parametrize(
    ("labels", "role", "said"),
    [
        ([0, 1, 3], "val", r"role 'val' has label 3 \(sample 's2'\), outside 0..2"),
        ([0, -1], "train", r"role 'train' has label -1 \(sample 's1'\), outside 0..2"),
        ([0, 1.5], "train", "label 1.5"),
        ([0, "cat"], "test", "label 'cat'"),
        ([1, 1, 1], "train", "one class only .'c1'."),
        ([], "train", "'train' has no samples"),
        (None, "train", "'train' has no labels"),
    ],
)
def test_data_that_do_not_fit_are_refused(labels, role, said):
    with pytest.raises(DataError, match=said):
        Classification(names(3)).check_dataset(dataset(labels), role)


@pytest.mark.parametrize(
    ("labels", "role"), [([0, 2], "train"), ([1], "val"), (None, "unlabeled"), (np.array([0, 2]), "test")]
)
def test_data_that_fit_pass(labels, role):
    data = SimpleNamespace(labels=labels, ids=["a", "b"])
    Classification(names(3)).check_dataset(data, role)


@pytest.mark.parametrize(
    ("labels", "said"), [([], "none"), (["cat"], "'cat'"), (["cat", "dog", "cat"], "'cat' occurs 2 times")]
)
def test_fewer_than_two_classes_and_twins_are_refused(labels, said):
    with pytest.raises(DataError, match=said):
        Classification(labels)


def test_ordered_classes_have_a_limit():
    with pytest.raises(DataError, match="ordered"):
        Classification(names(MATRIX_LIMIT + 1), ordinal=True)


# -- JSON --


def test_json_holds_the_labels_and_what_differs_from_the_defaults():
    assert Classification(["a", "b"]).to_json() == {"labels": ["a", "b"]}
    task = Classification(["a", "b"], torch.tensor([0.25, 1.75]), 0.1, True)
    again = Classification.from_json({"name": "classification", **json.loads(json.dumps(task.to_json()))})
    assert again.class_names() == ["a", "b"]
    assert torch.equal(again.class_weights, task.class_weights)
    assert (again.label_smoothing, again.ordinal, again.outputs) == (0.1, True, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": None},
        {"labels": "ab"},
        {"labels": ["a"]},
        {"labels": ["a", 1]},
        {"labels": ["a", "a"]},
        {"labels": ["a", "b" * 2000]},
        {"labels": ["a"] * (MAX_CLASSES + 1)},
        {"class_weights": [1.0]},
        {"class_weights": [1.0, "2"]},
        {"class_weights": [1.0, math.inf]},
        {"class_weights": [1.0, -1.0]},
        {"label_smoothing": 2},
        {"label_smoothing": True},
        {"ordinal": 1},
        {"__class__": "os.system"},
    ],
)
def test_malformed_json_is_refused_in_one_line(change):
    with pytest.raises(ArtifactError, match="card's task") as error:
        Classification.from_json({"labels": ["a", "b"], **change})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("classes", "ordinal", "labels", "said"),
    [
        (2, False, [1, 1], ("the test part has samples of class 'c1' only, so AUROC cannot be measured there",)),
        (3, True, [2], ("the test part has samples of class 'c2' only, so kappa cannot be measured there",)),
        (3, False, [0, 0], ("the test part has samples of class 'c0' only",)),
        (2, False, [0, 1], ()),
        (2, False, None, ()),
    ],
)
def test_what_labels_leave_undefined_is_said(classes, ordinal, labels, said):
    assert Classification(names(classes), ordinal=ordinal).undefined(dataset(labels), "test") == said


def test_directions_of_metrics():
    task = Classification(names(2))
    assert task.directions(["accuracy", "nll", "ece", "nll/fog", "auroc"]) == {
        "accuracy": "max",
        "nll": "min",
        "ece": "min",
        "nll/fog": "min",
        "auroc": "max",
    }
