"""The segmentation task: one class per pixel, judged by intersection over union."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pt_core.data import Batch, Dataset
from pt_core.errors import ArtifactError, DataError, UserError, name_problem
from pt_core.task import Evaluator, Predictions, Task
from torch import Tensor
from torch.nn import functional as F

from pt_vision.segmentation.data.masks import IGNORE
from pt_vision.segmentation.metrics import SegmentationEvaluator, accuracy, confusion, defined, mean_iou

MAX_CLASSES = 255
LABELLED_ROLES = ("train", "val", "test")


class Segmentation(Task):
    """Per-pixel logits (batch, class, row, column); targets (batch, row, column) with IGNORE where there is none.

    The loss averages over all pixels, ignored ones counting 0 (as the common toolboxes do), so that it does not depend on how a batch is
    cut into parts.
    """

    name = "segmentation"
    unit = "pixel"
    eval_batch: ClassVar[int] = 4
    select: tuple[str, Literal["max", "min"]] = ("miou", "max")

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = [str(label) for label in labels]
        if not 2 <= len(self.labels) <= MAX_CLASSES:
            raise DataError(f"segmentation needs 2 to {MAX_CLASSES} classes, the data have {len(self.labels)}")
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise DataError(f"class name {twice!r} occurs twice; give every class its own name")
        odd = name_problem(self.labels)
        if odd is not None:
            raise DataError(odd)
        self.outputs = len(self.labels)

    def class_names(self) -> Sequence[str]:
        return self.labels

    def check_dataset(self, dataset: Dataset, role: str) -> None:
        """Refuse labelled roles without masks, and mask values that are no class.

        Raises:
            DataError: names the mask and its value.
        """
        if not len(dataset):
            raise DataError(f"role {role!r} has no images")
        if getattr(dataset, "masks", None) is None:
            if role in LABELLED_ROLES:
                raise DataError(f"role {role!r} has no masks; segmentation needs them beside its images")
            return
        known: Any = getattr(dataset, "classes", self.labels)
        if len(known) > self.outputs:
            raise DataError(f"role {role!r} has {len(known)} classes, the task has {self.outputs}")

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """(cross-entropy averaged over all pixels, ignored ones as 0; number of images)."""
        logits = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
        total = F.cross_entropy(logits, batch.target, ignore_index=IGNORE, reduction="sum")
        return total / batch.target.numel(), len(batch)

    def predict(self, output: Tensor) -> Predictions:
        return {"logits": output}

    def logits(self, output: Tensor) -> Tensor:
        """(batch, class, row, column): the class axis is the second, as in classification."""
        return self.predict(output)["logits"]

    def with_classes(self, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None) -> Segmentation:
        """The same task on other classes; a method with a classifier of its own refuses them.

        Raises:
            UserError: texts that describe classes, which no method for masks reads.
        """
        if texts:
            raise UserError("segmentation takes names of classes, not texts that describe them")
        return Segmentation(names)

    def evaluator(self) -> Evaluator:
        return SegmentationEvaluator(self.labels)

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        """Per image: id, condition (where known), the largest classes with their shares, mean confidence as `score`, `miou` and pixel
        `accuracy` where there is a mask, and `mask`: the class of every pixel as an 8-bit PNG in base64."""
        probabilities = predictions["logits"].float().softmax(1)
        confidence, chosen = probabilities.max(1)
        rows: list[dict[str, Any]] = []
        for n, sample in enumerate(batch.ids):
            own = chosen[n]
            if "size" in batch.extra:
                high, wide = (int(v) for v in batch.extra["size"][n])
                own = own[:high, :wide]
            shares = own.flatten().bincount(minlength=self.outputs).double() / own.numel()
            top = shares.argsort(descending=True)[:3].tolist()
            summary = ", ".join(f"{self.labels[c]} {float(shares[c]):.0%}" for c in top if shares[c] > 0)
            row: dict[str, Any] = {"id": sample}
            if "condition" in batch.extra and batch.extra["condition"][n]:
                row["condition"] = batch.extra["condition"][n]
            row |= {"predicted": summary, "score": float(confidence[n, : own.shape[0], : own.shape[1]].mean())}
            if batch.target is not None:
                matrix = confusion(own, batch.target[n, : own.shape[0], : own.shape[1]], self.outputs)
                row |= {"miou": defined(mean_iou(matrix)), "accuracy": defined(accuracy(matrix))}
            rows.append({**row, "mask": encode_mask(own)})
        return rows

    def to_json(self) -> dict[str, Any]:
        return {"labels": self.labels}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Segmentation:
        """Inverse of `to_json`.

        Raises:
            ArtifactError: the labels are missing or malformed.
        """
        labels = spec.get("labels")
        if not isinstance(labels, list) or not all(isinstance(v, str) and len(v) <= 1000 for v in labels):
            raise ArtifactError("the card's task needs a list of names as labels")
        try:
            return cls(labels)
        except DataError as error:
            raise ArtifactError(f"the card's task is not valid: {error}") from None


def encode_mask(classes: Tensor) -> str:
    """(row, column) class indices as an 8-bit PNG in base64 text."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(classes.to(torch.uint8).cpu().numpy()).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def decode_mask(text: str) -> np.ndarray:
    """Inverse of `encode_mask`, (row, column) uint8."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
        return np.asarray(image)
