"""One or several yes/no properties per graph, some of them unknown: the molecular property sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pt_core.data import Batch, Dataset
from pt_core.errors import ArtifactError, DataError, name_problem
from pt_core.run.tasks.sums import gathered
from pt_core.task import Evaluator, Predictions, Task
from torch import Tensor
from torch.nn import functional as F

from pt_graph.tasks.classification import MAX_NODES
from pt_graph.tasks.means import WithMeans, further

MAX_TASKS = 10_000


class BinaryTasks(Task):
    """Targets y (graph, task) in {-1, 0, +1}; 0 is a missing label, which takes part in nothing.

    loss = sum over valid labels of BCE(logit, (y + 1) / 2) / number of valid labels.

    Args:
        labels: names of the properties.
        largest: nodes of the largest graph of the data, where known.
    """

    name = "binary"
    select: tuple[str, Literal["max", "min"]] = ("roc_auc", "max")

    def __init__(self, labels: Sequence[str], largest: int | None = None) -> None:
        self.labels = [str(label) for label in labels]
        self.largest = largest
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise DataError(f"binary properties need names of their own, got {self.labels[:8]}")
        odd = name_problem(self.labels, "property")
        if odd is not None:
            raise DataError(odd)
        self.outputs = len(self.labels)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """(loss, number of valid labels) of logits (graph, task); a batch without any has loss 0 and count 0."""
        valid = batch.target != 0
        losses = _bce(output, batch.target)
        count = int(valid.sum())
        return torch.where(valid, losses, 0.0).sum() / max(count, 1), count

    def sample_losses(self, output: Tensor, target: Tensor, masked: bool = True) -> Tensor:
        """(graph,) sum over tasks of BCE / number of the graph's valid labels.

        `masked=False` is the published reward: a missing label counts as target 0.5 in the sum, and not in the divisor.
        """
        losses, valid = _bce(output, target), target != 0
        if masked:
            losses = torch.where(valid, losses, 0.0)
        return losses.sum(1) / valid.sum(1).clamp(min=1)

    def labelled(self, target: Tensor) -> Tensor:
        return (target != 0).any(1)

    def slots(self) -> list[str]:
        """What prototypes stand for: no and yes of every property."""
        return [f"{name}={value}" for name in self.labels for value in ("no", "yes")]

    def membership(self, target: Tensor) -> Tensor:
        """(graph, slot) 1 where a graph belongs to a slot."""
        return torch.stack([target < 0, target > 0], -1).flatten(1).float()

    def compare(self, scores: Tensor) -> Tensor:
        """(graph, slot) scores -> logits: yes minus no, whose sigmoid is the softmax over the two."""
        pairs = scores.unflatten(1, (-1, 2))
        return pairs[..., 1] - pairs[..., 0]

    def predict(self, output: Tensor) -> Predictions:
        return {"logits": output}

    def evaluator(self) -> Evaluator:
        return WithMeans(_Auc(self.labels))

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        """Per graph: id, the probability of each property (and its label where known); of a single property also predicted, score and
        correct."""
        scores = predictions["logits"].float().sigmoid().cpu()
        rows = []
        for row, sample in enumerate(batch.ids):
            record: dict[str, Any] = {"id": sample}
            truth = None if batch.target is None else batch.target[row].tolist()
            if self.outputs == 1:
                yes = float(scores[row, 0])
                record |= {
                    "predicted": f"{self.labels[0]}: {'yes' if yes >= 0.5 else 'no'}",
                    "score": max(yes, 1 - yes),
                }
                if truth is not None and truth[0] != 0:
                    record |= {"label": "yes" if truth[0] > 0 else "no", "correct": (yes >= 0.5) == (truth[0] > 0)}
            for number, name in enumerate(self.labels):
                record[f"p({name})"] = float(scores[row, number])
                if truth is not None and truth[number] != 0 and self.outputs > 1:
                    record[name] = int(truth[number] > 0)
            rows.append(record | further(predictions, row))
        return rows

    def line(self, record: Mapping[str, Any]) -> str:
        shown = "\t".join(f"{name}={record[f'p({name})']:.4f}" for name in self.labels[:12])
        return f"{record['id']}\t{shown}"

    def to_json(self) -> dict[str, Any]:
        return {"labels": self.labels, "largest": self.largest}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> BinaryTasks:
        labels = spec.get("labels")
        plain = isinstance(labels, list) and all(isinstance(one, str) and len(one) <= 1000 for one in labels)
        largest = spec.get("largest")
        sized = largest is None or (isinstance(largest, int) and 0 < largest <= MAX_NODES)
        if (
            not set(spec) <= {"name", "labels", "largest"}
            or not plain
            or not sized
            or not 1 <= len(labels or ()) <= MAX_TASKS
        ):
            raise ArtifactError("the card's task is no valid list of binary properties")
        return cls(labels or [], largest)

    not_scores = frozenset({"tasks_scored"})

    def undefined(self, dataset: Dataset, role: str) -> Sequence[str]:
        """Properties of which a part has one label only; they are left out of ROC-AUC."""
        own: Any = dataset
        target = own.target(range(len(own)))
        lost = [
            name
            for number, name in enumerate(self.labels)
            if not ((target[:, number] > 0).any() and (target[:, number] < 0).any())
        ]
        if len(lost) == len(self.labels):
            return (f"the {role} part has one label only of every property, so ROC-AUC cannot be measured there",)
        if not lost:
            return ()
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        return (f"the {role} part has one label only of {shown}: ROC-AUC leaves them out",)

    def check_dataset(self, dataset: Dataset, role: str) -> None:
        """Refuse data with other properties, and training data without any label.

        Raises:
            DataError: names the role.
        """
        own = getattr(dataset, "tasks", None)
        if own is not None and list(own) != self.labels:
            raise DataError(f"role {role!r} has the properties {', '.join(own)}, the task has {', '.join(self.labels)}")
        target = getattr(dataset, "target", None)
        if target is None or own is None:
            raise DataError(f"role {role!r} has no binary labels; use --task classification, or give label columns")
        if role == "train" and not bool((target(range(len(dataset))) != 0).any()):
            raise DataError("role 'train' has no label at all")


class _Auc(Evaluator):
    """Mean ROC-AUC over the properties with both labels present, and how many those are."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.logits: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.rows: list[dict[str, Any]] = []

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if batch.target is None:
            raise DataError("evaluation needs labelled data, these have no labels")
        self.logits.append(predictions["logits"].detach().float().cpu())
        self.targets.append(batch.target.cpu())

    def compute(self) -> dict[str, float]:
        from sklearn.metrics import roc_auc_score

        parts = gathered((self.logits, self.targets))
        width = len(self.labels)
        logits = torch.cat([part for logits, _ in parts for part in logits] or [torch.zeros(0, width)])
        target = torch.cat([part for _, targets in parts for part in targets] or [torch.zeros(0, width)])
        valid = target != 0
        scores = []
        self.rows = []
        for number, name in enumerate(self.labels):
            mask = valid[:, number]
            truth = target[mask, number] > 0
            both = bool(truth.any()) and not bool(truth.all())
            auc = float(roc_auc_score(truth, logits[mask, number].double())) if both else None
            scores += [auc] if auc is not None else []
            counts = {"yes": int(truth.sum()), "no": int((~truth).sum()), "missing": int((~mask).sum())}
            self.rows.append(
                {"property": name, **counts, "roc_auc": "one label only" if auc is None else round(auc, 4)}
            )
        count = int(valid.sum())
        nll = float(torch.where(valid, _bce(logits, target), 0.0).sum() / max(count, 1))
        mean = sum(scores) / len(scores) if scores else float("nan")
        return {
            "roc_auc": mean,
            "tasks_scored": len(scores) / width,
            "nll": nll,
        }

    def tables(self) -> dict[str, Any]:
        return {"per_class": self.rows}


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    values = logits.float() if logits.element_size() < 4 else logits
    return F.binary_cross_entropy_with_logits(values, (target.to(values) + 1) / 2, reduction="none")
