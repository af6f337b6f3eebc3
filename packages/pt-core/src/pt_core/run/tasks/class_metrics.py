"""Metrics of classification, exact over any number of processes: what is kept are sums (and, for AUROC, the scores)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc

from pt_core.data import Batch
from pt_core.errors import DataError
from pt_core.run.tasks.classification import MATRIX_LIMIT
from pt_core.task import Evaluator, Predictions

BINS = 15
"""Confidence bins of the calibration error (Guo et al. 2017)."""


class _Sums(Metric):
    """What the metrics need, summed over samples; torchmetrics adds up the processes."""

    full_state_update = False
    hits: Tensor
    support: Tensor
    predicted: Tensor
    confusion: Tensor
    nll: Tensor
    bins: Tensor
    negative: list[Tensor]
    positive: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        for name in ("hits", "support", "predicted"):
            self.add_state(name, torch.zeros(classes, dtype=torch.long), "sum")
        side = classes if classes <= MATRIX_LIMIT else 0
        self.add_state("confusion", torch.zeros(side, side, dtype=torch.long), "sum")
        self.add_state("nll", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("bins", torch.zeros(2, BINS, dtype=torch.float64), "sum")
        # Margins of two classes, apart by label: both states are float32, which a process without samples can join.
        self.add_state("negative", [], "cat")
        self.add_state("positive", [], "cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """(n, class) float32, (n,) int64."""
        choice, hit = logits.argmax(-1), logits.argmax(-1) == target
        self.hits += target[hit].bincount(minlength=self.classes)
        self.support += target.bincount(minlength=self.classes)
        self.predicted += choice.bincount(minlength=self.classes)
        if len(self.confusion):
            pairs = (target * self.classes + choice).bincount(minlength=self.classes**2)
            self.confusion += pairs.view(self.classes, self.classes)
        self.nll += F.cross_entropy(logits, target, reduction="sum").double()
        confidence = logits.softmax(-1).amax(-1).double()
        edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=logits.device)[1:-1]
        bucket = torch.bucketize(confidence.nan_to_num(), edges)
        self.bins += torch.stack(
            [bucket.bincount(values, minlength=BINS) for values in (hit.double(), confidence)],
        )
        if self.classes == 2:
            margin = logits[:, 1] - logits[:, 0]
            self.negative.append(margin[target == 0])
            self.positive.append(margin[target == 1])

    def compute(self) -> dict[str, Tensor]:
        names = ("hits", "support", "predicted", "confusion", "nll", "bins")
        sums = {name: getattr(self, name).cpu() for name in names}
        return sums | {name: _joined(getattr(self, name)).cpu() for name in ("negative", "positive")}


class ClassificationEvaluator(Evaluator):
    """Accuracy, balanced accuracy, macro F1, negative log-likelihood, expected calibration error; AUROC of two classes;
    quadratic-weighted kappa of ordered ones.

    A metric that the data do not define (AUROC with one class present, kappa with one class true and predicted) is nan.
    Balanced accuracy averages over the classes with samples, macro F1 over those with samples or predictions, as
    scikit-learn does.
    """

    def __init__(self, labels: Sequence[str], ordinal: bool = False) -> None:
        self.labels, self.ordinal = list(labels), ordinal
        self.sums = _Sums(len(labels)).to(_sync_device())
        self._rows: list[dict[str, Any]] = []
        self._confusion: list[list[int]] = []

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if batch.target is None:
            raise DataError("evaluation needs labelled data, these have no labels")
        device = self.sums.device
        self.sums.update(predictions["logits"].detach().float().to(device), batch.target.to(device))

    def compute(self) -> dict[str, float]:
        if not self.sums.update_called:  # a process without samples
            device = self.sums.device
            self.sums.update(
                torch.zeros(0, len(self.labels), device=device), torch.zeros(0, dtype=torch.long, device=device)
            )
        sums = self.sums.compute()
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
            "nll": float(sums["nll"]) / total if total else math.nan,
            "ece": float((right - confidence).abs().sum()) / total if total else math.nan,
        }
        if len(self.labels) == 2:
            metrics["auroc"] = auroc(sums["negative"], sums["positive"])
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
    negative, positive = negative.reshape(-1), positive.reshape(-1)  # torchmetrics squeezes single values
    scores = torch.cat([negative, positive])
    if not len(negative) or not len(positive) or bool(scores.isnan().any()):
        return math.nan
    target = torch.cat([torch.zeros(len(negative), dtype=torch.long), torch.ones(len(positive), dtype=torch.long)])
    # Ranks: probabilities of confident predictions round to 1 and would tie.
    ranks = torch.unique(scores, return_inverse=True)[1].double()
    return float(binary_auroc(ranks / ranks.max().clamp(min=1), target))


def _sync_device() -> torch.device:
    """Where states must live to be merged: NCCL moves CUDA tensors only."""
    if dist.is_available() and dist.is_initialized() and "gloo" not in dist.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _joined(parts: Tensor | list[Tensor]) -> Tensor:
    """A list state before, a tensor after the processes were merged."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
