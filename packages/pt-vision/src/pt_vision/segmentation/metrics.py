"""Intersection over union from pixel counts, over all images and per condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pt_core.data import Batch
from pt_core.errors import DataError
from pt_core.run.tasks.sums import Sums
from pt_core.task import Evaluator, Predictions
from torch import Tensor

from pt_vision.segmentation.data.masks import IGNORE


def confusion(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """(true class, predicted class) pixel counts; ignored pixels are left out."""
    keep = target != IGNORE
    joint = target[keep].long() * classes + predicted[keep].long()
    return joint.bincount(minlength=classes * classes).view(classes, classes)


def class_iou(matrix: Tensor) -> Tensor:
    """(class,) intersection over union; nan for a class that occurs neither in truth nor in predictions."""
    matrix = matrix.double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return torch.where(union > 0, matrix.diagonal() / union.clamp(min=1), torch.full_like(union, math.nan))


def mean_iou(matrix: Tensor) -> float:
    """Mean over the classes that occur in the truth."""
    iou, seen = class_iou(matrix), matrix.sum(1) > 0
    return float(iou[seen].mean()) if bool(seen.any()) else math.nan


def accuracy(matrix: Tensor) -> float:
    total = matrix.sum()
    return float(matrix.diagonal().sum() / total) if total else math.nan


def defined(value: float) -> float | None:
    """None for nan, which JSON does not have."""
    return None if math.isnan(value) else value


class SegmentationEvaluator(Evaluator):
    """miou: mean over the classes that occur in the truth, from pixel counts over all images; accuracy: share of pixels;
    miou/CONDITION: the same over the images of a condition, where the data name conditions."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.sums = Sums({"": self._none()})
        """(true class, predicted class) pixel counts of all images, and of each condition."""
        self._rows: list[dict[str, Any]] = []
        self._matrix = torch.zeros(len(labels), len(labels))

    def _none(self) -> Tensor:
        return torch.zeros(len(self.labels), len(self.labels), dtype=torch.long)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if batch.target is None:
            raise DataError("evaluation needs masks, these images have none")
        chosen = predictions["logits"].argmax(1)
        conditions = batch.extra.get("condition") or [""] * len(batch)
        known = batch.extra.get("conditions", ())
        for name in ("", *known):
            self.sums.setdefault(name, self._none())
        for n, condition in enumerate(conditions):
            matrix = confusion(chosen[n], batch.target[n], len(self.labels)).cpu()
            for name in dict.fromkeys(("", condition)):
                self.sums[name] = self.sums.get(name, self._none()) + matrix

    def compute(self) -> dict[str, float]:
        sums = self.sums.over_processes()
        found = {name: sums[name] for name in sorted(sums)}
        self._matrix = found.pop("")
        iou = {"IoU": class_iou(self._matrix), **{name: class_iou(matrix) for name, matrix in found.items()}}
        seen = self._matrix.sum(1)
        self._rows = [
            {"class": label, "pixels": int(seen[row]), **{k: defined(float(v[row])) for k, v in iou.items()}}
            for row, label in enumerate(self.labels)
        ]
        metrics = {"miou": mean_iou(self._matrix), "accuracy": accuracy(self._matrix)}
        return metrics | {f"miou/{name}": mean_iou(matrix) for name, matrix in found.items()}

    def tables(self) -> dict[str, Any]:
        return {"per_class": self._rows, "confusion": {"labels": self.labels, "matrix": self._matrix.long().tolist()}}
