"""Metrics of classification, exact over any number of processes: what is kept are sums (and, for AUROC, the scores)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pt_core.data import Batch
from pt_core.errors import DataError
from pt_core.run.tasks.sums import Sums, gathered
from pt_core.task import Evaluator, Predictions

BINS = 15
"""Confidence bins of the calibration error (Guo et al. 2017)."""
MATRIX_LIMIT = 1000
"""Above this number of classes no confusion matrix is kept."""


class ClassificationEvaluator(Evaluator):
    """Accuracy, balanced accuracy, macro F1, precision and recall, negative log-likelihood, expected calibration error;
    AUROC of two classes; quadratic-weighted kappa of ordered ones.

    A metric that the data do not define (AUROC with one class present, kappa with one class true and predicted) is nan.
    Balanced accuracy averages over the classes with samples, the macro metrics over those with samples or predictions, as
    scikit-learn does. The calibration error is sum_b |hits_b - confidence_b| / samples over 15 equal bins b of [0, 1], of the
    largest probability.
    """

    def __init__(self, labels: Sequence[str], ordinal: bool = False) -> None:
        self.labels, self.ordinal = list(labels), ordinal
        classes = len(self.labels)
        side = classes if classes <= MATRIX_LIMIT else 0
        self.sums = Sums(
            hits=torch.zeros(classes, dtype=torch.long),
            support=torch.zeros(classes, dtype=torch.long),
            predicted=torch.zeros(classes, dtype=torch.long),
            confusion=torch.zeros(side, side, dtype=torch.long),
            nll=torch.zeros((), dtype=torch.float64),
            bins=torch.zeros(2, BINS, dtype=torch.float64),
        )
        self.margins: tuple[list[Tensor], list[Tensor]] = ([], [])
        """Of two classes: logit 1 - logit 0 of the samples of either class."""
        self._rows: list[dict[str, Any]] = []
        self._confusion: list[list[int]] = []

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if batch.target is None:
            raise DataError("evaluation needs labelled data, these have no labels")
        logits, target = predictions["logits"].detach().float().cpu(), batch.target.cpu()
        classes = len(self.labels)
        choice, hit = logits.argmax(-1), logits.argmax(-1) == target
        self.sums["hits"] += target[hit].bincount(minlength=classes)
        self.sums["support"] += target.bincount(minlength=classes)
        self.sums["predicted"] += choice.bincount(minlength=classes)
        if len(self.sums["confusion"]):
            pairs = (target * classes + choice).bincount(minlength=classes**2)
            self.sums["confusion"] += pairs.view(classes, classes)
        self.sums["nll"] += F.cross_entropy(logits, target, reduction="sum").double()
        confidence = logits.softmax(-1).amax(-1).double()
        edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]
        bucket = torch.bucketize(confidence.nan_to_num(), edges)
        self.sums["bins"] += torch.stack(
            [bucket.bincount(values, minlength=BINS) for values in (hit.double(), confidence)],
        )
        if classes == 2:
            margin = logits[:, 1] - logits[:, 0]
            for label, kept in enumerate(self.margins):
                kept.append(margin[target == label])

    def compute(self) -> dict[str, float]:
        sums = self.sums.over_processes()
        total = int(sums["support"].sum())
        self._rows = per_class(self.labels, sums["hits"], sums["support"], sums["predicted"])
        self._confusion = sums["confusion"].tolist()
        seen = [row for row in self._rows if row["support"]]
        named = [
            row
            for row, guesses in zip(self._rows, sums["predicted"].tolist(), strict=True)
            if row["support"] or guesses
        ]
        right, confidence = sums["bins"]
        metrics = {
            "accuracy": int(sums["hits"].sum()) / total if total else math.nan,
            "balanced_accuracy": _mean([row["recall"] for row in seen]),
            "macro_f1": _mean([row["f1"] for row in named]),
            "macro_precision": _mean([row["precision"] for row in named]),
            "macro_recall": _mean([row["recall"] for row in named]),
            "nll": float(sums["nll"]) / total if total else math.nan,
            "ece": float((right - confidence).abs().sum()) / total if total else math.nan,
        }
        if len(self.labels) == 2:
            parts = gathered(self.margins)
            negative, positive = ([margin for part in parts for margin in part[label]] for label in (0, 1))
            metrics["auroc"] = auroc(torch.cat([torch.zeros(0), *negative]), torch.cat([torch.zeros(0), *positive]))
        if self.ordinal:
            metrics["kappa"] = quadratic_kappa(sums["confusion"])
        return metrics

    def tables(self) -> dict[str, Any]:
        """After `compute`: precision, recall, F1 and support per class (0 where undefined), and the confusion matrix
        with a row per true and a column per predicted class."""
        tables: dict[str, Any] = {"per_class": self._rows}
        if self._confusion:
            tables["confusion"] = {"labels": self.labels, "matrix": self._confusion}
        return tables


def per_class(labels: Sequence[str], hits: Tensor, support: Tensor, predicted: Tensor) -> list[dict[str, Any]]:
    """One row per class from (class,) counts."""
    rows = []
    for label, hit, true, guessed in zip(labels, hits.tolist(), support.tolist(), predicted.tolist(), strict=True):
        rows.append(
            {
                "class": label,
                "precision": hit / guessed if guessed else 0.0,
                "recall": hit / true if true else 0.0,
                "f1": 2 * hit / (true + guessed) if true + guessed else 0.0,
                "support": true,
            }
        )
    return rows


def quadratic_kappa(confusion: Tensor) -> float:
    """Cohen's kappa with disagreement (i - j)^2, of a (class, class) matrix of counts; nan with a warning where it is
    0/0 (no samples, or one class true and predicted). A class that does not occur keeps its place in the order."""
    counts = confusion.double()
    grid = torch.arange(len(counts), dtype=torch.float64)
    distance = (grid[:, None] - grid[None]) ** 2
    chance = torch.outer(counts.sum(1), counts.sum(0)) / counts.sum().clamp(min=1)
    expected = float((distance * chance).sum())
    if expected == 0:
        warnings.warn("quadratic kappa is 0/0: at most one class is true and predicted", RuntimeWarning, stacklevel=2)
        return math.nan
    return 1 - float((distance * counts).sum()) / expected


def auroc(negative: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve from the (n,) scores of each label; nan where one of them is empty or a score is nan."""
    scores = torch.cat([negative, positive])
    if not len(negative) or not len(positive) or bool(scores.isnan().any()):
        return math.nan
    # Ranks of the scores themselves: probabilities of confident predictions round to 1 and would tie.
    ranks = torch.unique(scores, return_inverse=True)[1]
    below, above = (
        part.bincount(minlength=int(ranks.max()) + 1) for part in ranks.split([len(negative), len(positive)])
    )
    false, true = (F.pad(part.flip(0).cumsum(0), (1, 0)) for part in (below, above))
    return float(torch.trapezoid(true / len(positive), false / len(negative)))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
