"""Part segmentation: one part per point, judged by intersection over union within the cloud's category (ShapeNetPart's protocol)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pt_core.data import Batch, Dataset
from pt_core.errors import ArtifactError, DataError, name_problem
from pt_core.run.tasks.sums import Sums
from pt_core.task import Evaluator, Predictions, Task
from torch import Tensor
from torch.nn import functional as F

MAX_NAMES = 100_000


class PartSegmentation(Task):
    """Per-point log-probabilities (batch, point, part); the category of a cloud is known and decides which parts it can have.

    Args:
        categories: names, in label order.
        part_names: names of all parts, in index order.
        parts_of: category -> indices of its parts.
    """

    name = "parts"
    unit = "point"
    label_keys = ("categories", "part_names", "parts_of")
    select: tuple[str, Literal["max", "min"]] = ("instance_miou", "max")

    def __init__(
        self, categories: Sequence[str], part_names: Sequence[str], parts_of: Mapping[str, Sequence[int]]
    ) -> None:
        self.categories, self.part_names = [str(c) for c in categories], [str(p) for p in part_names]
        self.parts_of = {name: sorted(int(i) for i in parts_of[name]) for name in self.categories}
        for name, own in self.parts_of.items():
            if not own or own[0] < 0 or own[-1] >= len(self.part_names):
                raise DataError(
                    f"category {name!r} has parts {own}; its parts must lie in 0..{len(self.part_names) - 1}"
                )
        odd = name_problem(self.categories, "category") or name_problem(self.part_names, "part")
        if odd is not None:
            raise DataError(odd)
        self.outputs = len(self.part_names)
        self.allowed = torch.zeros(len(self.categories), self.outputs, dtype=torch.bool)
        for row, name in enumerate(self.categories):
            self.allowed[row, self.parts_of[name]] = True

    @classmethod
    def from_data(cls, train: Any) -> PartSegmentation:
        """Categories, and the parts that occur in each."""
        labels, parts = train.labels, train.parts
        if parts is None or labels is None:
            raise DataError(
                "part segmentation needs a part for every point: an array `parts` (.npz, .h5), or --part-column of text files"
            )
        found: dict[str, set[int]] = {name: set() for name in train.classes}
        for label, own in zip(labels, parts, strict=True):
            found[train.classes[label]].update(int(i) for i in set(own.tolist()))
        return cls(train.classes, train.part_names, {name: sorted(own) for name, own in found.items()})

    def class_names(self) -> Sequence[str]:
        return self.categories

    def check_dataset(self, dataset: Dataset, role: str) -> None:
        """Refuse clouds without parts, and parts that their category does not have in training.

        Raises:
            DataError: names the sample and the part.
        """
        parts: Any = getattr(dataset, "parts", None)
        if parts is None or dataset.labels is None:
            raise DataError(f"role {role!r} has no parts of points; part segmentation needs them")
        for row, (label, own) in enumerate(zip(dataset.labels, parts, strict=True)):
            strange = set(own.tolist()) - set(self.parts_of[self.categories[label]])
            if strange:
                raise DataError(
                    f"role {role!r}: cloud {dataset.ids[row]!r} of category {self.categories[label]!r} has part {min(strange)}, which that "
                    f"category does not have in training ({self.parts_of[self.categories[label]]})"
                )

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """(mean negative log-likelihood over points, number of points)."""
        points = batch.target.numel()
        return F.nll_loss(output.float().flatten(0, 1), batch.target.flatten()), points

    def logits(self, output: Tensor) -> Tensor:
        """(batch, point, part) log-probabilities."""
        return output

    def predict(self, output: Tensor) -> Predictions:
        return {"logits": output}

    def choose(self, predictions: Predictions, batch: Batch) -> Tensor:
        """(batch, point): the likeliest part among those of the cloud's category."""
        allowed = self.allowed.to(predictions["logits"].device)[batch.inputs["category"]]
        return predictions["logits"].masked_fill(~allowed[:, None], -math.inf).argmax(-1)

    def evaluator(self) -> Evaluator:
        return PartEvaluator(self)

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        """Per cloud: id, category, share of its parts, mean confidence as `score`, `miou` where parts are known, and `parts` per point."""
        chosen = self.choose(predictions, batch)
        confidence = predictions["logits"].float().softmax(-1).gather(-1, chosen[..., None])[..., 0].mean(1)
        rows: list[dict[str, Any]] = []
        for n, sample in enumerate(batch.ids):
            category = self.categories[int(batch.inputs["category"][n])]
            own = chosen[n].cpu()
            counts = sorted(
                ((int((own == i).sum()), self.part_names[i]) for i in self.parts_of[category]), reverse=True
            )
            summary = ", ".join(f"{name.rpartition('/')[2]} {count / len(own):.0%}" for count, name in counts if count)
            row: dict[str, Any] = {"id": sample, "label": category, "predicted": summary, "score": float(confidence[n])}
            if batch.target is not None:
                row["miou"] = float(shape_iou(own, batch.target[n].cpu(), self.parts_of[category]))
            rows.append({**row, "parts": own.tolist()})
        return rows

    def to_json(self) -> dict[str, Any]:
        return {"categories": self.categories, "part_names": self.part_names, "parts_of": self.parts_of}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> PartSegmentation:
        """Inverse of `to_json`.

        Raises:
            ArtifactError: an entry is missing or malformed.
        """
        categories, names, parts_of = (spec.get(key) for key in ("categories", "part_names", "parts_of"))
        for key, value in (("categories", categories), ("part_names", names)):
            if (
                not isinstance(value, list)
                or not 0 < len(value) <= MAX_NAMES
                or not all(isinstance(v, str) for v in value)
            ):
                raise ArtifactError(f"the card's task needs a list of names as {key}")
        try:
            return cls(categories, names, parts_of)  # type: ignore[arg-type]
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the card's task is not valid: {error}") from None


def shape_iou(predicted: Tensor, target: Tensor, parts: Sequence[int]) -> Tensor:
    """Mean IoU over the parts of a category; a part in neither counts 1."""
    found = []
    for part in parts:
        a, b = predicted == part, target == part
        union = (a | b).sum()
        found.append((a & b).sum() / union if union else torch.ones(()))
    return torch.stack(found).mean()


class PartEvaluator(Evaluator):
    """instance_miou: mean over clouds; category_miou: mean over categories of their mean; accuracy: share of points."""

    def __init__(self, task: PartSegmentation) -> None:
        self.task, categories = task, len(task.categories)
        self.sums = Sums(
            iou=torch.zeros(categories, dtype=torch.float64),
            shapes=torch.zeros(categories, dtype=torch.long),
            points=torch.zeros(2, dtype=torch.long),
        )
        self._rows: list[dict[str, Any]] = []

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if batch.target is None:
            raise DataError("evaluation needs the parts of points, these clouds have none")
        chosen, category = self.task.choose(predictions, batch), batch.inputs["category"]
        parts = [self.task.parts_of[self.task.categories[int(c)]] for c in category]
        iou = torch.stack(
            [shape_iou(a.cpu(), b.cpu(), own) for a, b, own in zip(chosen, batch.target, parts, strict=True)]
        )
        category, right = category.cpu(), (chosen == batch.target).cpu()
        self.sums["iou"].index_add_(0, category, iou.double())
        self.sums["shapes"] += category.bincount(minlength=len(self.sums["shapes"]))
        self.sums["points"] += torch.tensor([int(right.sum()), right.numel()])

    def compute(self) -> dict[str, float]:
        sums = self.sums.over_processes()
        total, seen = int(sums["shapes"].sum()), sums["shapes"] > 0
        means = sums["iou"] / sums["shapes"].clamp(min=1)
        self._rows = [
            {"category": name, "miou": float(means[row]), "shapes": int(sums["shapes"][row])}
            for row, name in enumerate(self.task.categories)
        ]
        right, points = sums["points"].tolist()
        return {
            "instance_miou": float(sums["iou"].sum()) / total if total else math.nan,
            "category_miou": float(means[seen].mean()) if total else math.nan,
            "accuracy": right / points if points else math.nan,
        }

    def tables(self) -> dict[str, Any]:
        return {"per_class": self._rows}
