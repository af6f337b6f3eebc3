"""IoU against counts by hand, ignored pixels, conditions, records, and the stored form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pt_core.data import Batch
from pt_core.errors import ArtifactError, DataError
from pt_vision.segmentation.metrics import class_iou, confusion, mean_iou
from pt_vision.segmentation.task import Segmentation, decode_mask, encode_mask

from tests.vision.segmentation.common import DATA, LABELS

TASK = Segmentation(LABELS)


def batch(target: torch.Tensor, conditions: list[str] | None = None, **extra) -> Batch:
    ids = [f"image-{n}" for n in range(len(target))]
    if conditions:
        extra |= {"condition": conditions, "conditions": sorted(set(conditions))}
    return Batch(None, target, torch.arange(len(target)), ids, extra)


def logits(classes: torch.Tensor) -> torch.Tensor:
    return 9.0 * torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float()


def test_iou_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, 255, 255]])
    chosen = torch.tensor([[0, 1, 1], [1, 2, 0]])
    matrix = confusion(chosen, truth, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    iou = class_iou(matrix)
    assert iou[:2].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert math.isnan(float(iou[2]))  # its only prediction lies on an ignored pixel
    assert mean_iou(matrix) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(mean_iou(torch.zeros(3, 3)))


def test_evaluator_sums_over_images_and_conditions():
    evaluator = TASK.evaluator()
    truth, chosen = torch.randint(3, (4, 6, 6)), torch.randint(3, (4, 6, 6))
    truth[2, :3] = 255
    names = ["fog", "night", "fog", "night"]
    for rows in ([0, 1], [2, 3]):
        evaluator.update(TASK.predict(logits(chosen[rows])), batch(truth[rows], [names[n] for n in rows]))
    metrics = evaluator.compute()
    assert metrics["miou"] == pytest.approx(mean_iou(confusion(chosen, truth, 3)))
    assert metrics["miou/fog"] == pytest.approx(mean_iou(confusion(chosen[[0, 2]], truth[[0, 2]], 3)))
    assert metrics["accuracy"] == pytest.approx(float((chosen == truth)[truth != 255].float().mean()))
    rows = evaluator.tables()["per_class"]
    assert [row["class"] for row in rows] == LABELS
    assert set(rows[0]) == {"class", "pixels", "IoU", "fog", "night"}
    assert evaluator.tables()["confusion"]["matrix"] == confusion(chosen, truth, 3).tolist()
    with pytest.raises(DataError, match="needs masks"):
        evaluator.update(TASK.predict(logits(chosen)), Batch(None, None, torch.arange(4), list("abcd")))


def test_loss_averages_over_all_pixels_and_parts_add_up():
    output, truth = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    truth[0, :3] = 255
    loss, count = TASK.loss(output, batch(truth))
    losses = torch.nn.functional.cross_entropy(output, truth, ignore_index=255, reduction="none")
    assert count == 2
    assert float(loss) == pytest.approx(float(losses.sum()) / 32)
    parts = [float(TASK.loss(output[n : n + 1], batch(truth[n : n + 1]))[0]) for n in range(2)]
    assert float(loss) == pytest.approx(sum(parts) / 2)
    nothing, _ = TASK.loss(output, batch(torch.full((2, 4, 4), 255)))
    assert float(nothing) == 0.0


def test_records_hold_the_mask_of_the_images_own_size():
    chosen = torch.randint(3, (2, 4, 6))
    rows = TASK.records(
        TASK.predict(logits(chosen)), batch(chosen.clone(), ["fog", "night"], size=torch.tensor([[4, 6], [2, 3]]))
    )
    assert np.array_equal(decode_mask(rows[0]["mask"]), chosen[0])
    assert np.array_equal(decode_mask(rows[1]["mask"]), chosen[1, :2, :3])
    assert rows[0]["condition"] == "fog"
    assert rows[0]["miou"] == 1.0
    assert "%" in rows[0]["predicted"]
    unlabelled = TASK.records(TASK.predict(logits(chosen)), Batch(None, None, torch.arange(2), ["a", "b"]))
    assert "miou" not in unlabelled[0]
    assert TASK.line(unlabelled[0]).startswith("a\t")
    mask = torch.randint(255, (5, 7))
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


def test_stored_form():
    assert Segmentation.from_json({"name": "segmentation", **TASK.to_json()}).labels == LABELS
    for bad in ({}, {"labels": "abc"}, {"labels": ["a"]}, {"labels": ["a", "a"]}, {"labels": [1, 2]}):
        with pytest.raises(ArtifactError):
            Segmentation.from_json(bad)


def test_data_that_do_not_fit():
    TASK.check_dataset(DATA["train"], "train")
    TASK.check_dataset(DATA["target"], "target")
    with pytest.raises(DataError, match="role 'test' has no masks"):
        TASK.check_dataset(DATA["target"], "test")
    with pytest.raises(DataError, match="3 classes, the task has 2"):
        Segmentation(["a", "b"]).check_dataset(DATA["train"], "train")
    with pytest.raises(DataError, match="'a' occurs twice"):
        Segmentation(["a", "a"])
