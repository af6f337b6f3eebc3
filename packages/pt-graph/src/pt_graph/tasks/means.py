"""Values that a method predicts beside its logits (prompt coverage, prompt size) as metrics: their mean over the samples."""

from __future__ import annotations

from typing import Any

import torch
from pt_core.data import Batch
from pt_core.run.tasks.sums import gathered
from pt_core.task import Evaluator, Predictions


class Means:
    """Sums of (sample,) predictions by name over all processes."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def update(self, predictions: Predictions) -> None:
        for name, value in predictions.items():
            if value.ndim == 1 and value.is_floating_point():
                finite = value[value.isfinite()].double()
                total = self.sums.setdefault(name, [0.0, 0.0])
                total[0] += float(finite.sum())
                total[1] += len(finite)

    def compute(self) -> dict[str, float]:
        parts = gathered(self.sums)
        merged: dict[str, list[float]] = {}
        for part in parts:
            for name, (total, count) in part.items():
                old = merged.setdefault(name, [0.0, 0.0])
                merged[name] = [old[0] + total, old[1] + count]
        return {name: total / count for name, (total, count) in merged.items() if count}


class WithMeans(Evaluator):
    """An evaluator and, behind its metrics, the means."""

    def __init__(self, inner: Evaluator) -> None:
        self.inner, self.means = inner, Means()

    def update(self, predictions: Predictions, batch: Batch) -> None:
        self.inner.update(predictions, batch)
        self.means.update(predictions)

    def compute(self) -> dict[str, float]:
        return {**self.inner.compute(), **self.means.compute()}

    def tables(self) -> dict[str, Any]:
        return self.inner.tables()


def further(predictions: Predictions, row: int) -> dict[str, float]:
    """The same values of one sample, for its record."""
    return {
        name: float(value[row])
        for name, value in predictions.items()
        if value.ndim == 1 and value.is_floating_point() and bool(torch.isfinite(value[row]))
    }
