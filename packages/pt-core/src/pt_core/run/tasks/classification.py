"""The classification task: one of C classes per sample."""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pt_core.data import Batch, Dataset
from pt_core.errors import MAX_NAME, ArtifactError, DataError, name_problem
from pt_core.run.data.sampling import class_weights
from pt_core.run.declare.class_words import told
from pt_core.run.declare.options import ClassificationOptions
from pt_core.run.tasks.metrics import MATRIX_LIMIT, ClassificationEvaluator
from pt_core.task import Evaluator, Predictions, Task

MAX_CLASSES = 100_000
TOP = 3
"""Classes named in a prediction record."""
LABELLED_ROLES = ("train", "val", "test")


class Classification(Task):
    """Single-label classification of (batch, class) logits.

    The loss of a batch is sum_i w[y_i] ce_i / batch, where a usual weighted mean would divide by sum_i w[y_i]: only the
    former gives one gradient however the samples are split into micro-batches and processes. Weights with mean 1 over
    the training samples (as `pt_core.run.data.sampling.class_weights` gives) make the two agree in expectation.

    Args:
        labels: class names, in index order.
        class_weights: (class,) weights w of the loss, or None for 1.
        label_smoothing: e in [0, 1); the target becomes (1 - e) onehot + e / C, weighted per class as torch does.
        ordinal: the classes are ordered (grades, stages); adds quadratic-weighted kappa to the metrics and selects by it.

    Raises:
        DataError: fewer than 2 classes, a name that occurs twice, or one that is too long or holds control characters.
    """

    name = "classification"
    select: tuple[str, Literal["max", "min"]] = ("accuracy", "max")

    def __init__(
        self,
        labels: Sequence[str],
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        ordinal: bool = False,
    ) -> None:
        self.labels = [str(label) for label in labels]
        if len(self.labels) < 2:
            found = ", ".join(map(repr, self.labels)) or "none"
            raise DataError(f"classification needs at least 2 classes, the data have {len(self.labels)} ({found})")
        label, times = Counter(self.labels).most_common(1)[0]
        if times > 1:
            raise DataError(f"class name {label!r} occurs {times} times; give every class its own name")
        odd = name_problem(self.labels)
        if odd is not None:
            raise DataError(odd)
        if class_weights is not None:
            usable = bool((class_weights.isfinite() & (class_weights >= 0)).all())
            if class_weights.shape != (len(self.labels),) or not usable:
                raise ValueError(f"class_weights must be {len(self.labels)} finite values >= 0, got {class_weights}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if ordinal and len(self.labels) > MATRIX_LIMIT:
            raise DataError(f"ordered classes can be at most {MATRIX_LIMIT}, the data have {len(self.labels)}")
        self.outputs = len(self.labels)
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.ordinal = ordinal
        self.texts: Mapping[str, Sequence[str]] = {}
        """Class name -> texts that describe it, where they were given."""
        self.given_words: Mapping[str, str] = {}
        """Class name -> the text that stands for it, where one was given."""
        if ordinal:
            self.select = ("kappa", "max")

    @classmethod
    def from_options(cls, options: ClassificationOptions, train: Any) -> Classification:
        """The task of a run: classes and class frequencies of its training data."""
        weights = class_weights(train.labels, len(train.classes)) if options.class_weights else None
        task = cls(train.classes, weights, options.label_smoothing, options.ordinal)
        task.texts = getattr(train, "texts", {})
        return task

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """(loss, batch size) of logits (batch, class) against targets (batch,)."""
        logits = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
        weight = None if self.class_weights is None else self.class_weights.to(logits)
        total = F.cross_entropy(
            logits, batch.target, weight=weight, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / len(batch), len(batch)

    def logs(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {"accuracy": (output.detach().argmax(-1) == batch.target).float().mean()}

    def predict(self, output: Tensor) -> Predictions:
        return {"logits": output}

    def evaluator(self) -> Evaluator:
        return ClassificationEvaluator(self.labels, self.ordinal)

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        """Per sample: id, label and correct (where the batch has targets), predicted, score, and the runners-up as
        `top2`, `top2_score`, ... Scores are softmax probabilities."""
        scores, classes = predictions["logits"].float().softmax(-1).cpu().topk(min(TOP, self.outputs), -1)
        targets = [None] * len(batch) if batch.target is None else batch.target.tolist()
        rows = []
        for sample, target, values, order in zip(batch.ids, targets, scores.tolist(), classes.tolist(), strict=True):
            row: dict[str, Any] = {"id": sample}
            if target is not None:
                row["label"] = self.labels[target]
            row |= {"predicted": self.labels[order[0]], "score": values[0]}
            if target is not None:
                row["correct"] = target == order[0]
            for place in range(1, len(order)):
                row |= {f"top{place + 1}": self.labels[order[place]], f"top{place + 1}_score": values[place]}
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """The labels, and what differs from the defaults."""
        spec: dict[str, Any] = {"labels": self.labels}
        if self.class_weights is not None:
            spec["class_weights"] = [float(value) for value in self.class_weights]
        if self.label_smoothing:
            spec["label_smoothing"] = self.label_smoothing
        if self.ordinal:
            spec["ordinal"] = True
        if self.given_words:
            spec["class_words"] = dict(self.given_words)
        if self.texts:
            spec["texts"] = {name: list(texts) for name, texts in self.texts.items()}
        return spec

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Classification:
        """Inverse of `to_json`.

        Raises:
            ArtifactError: an unknown key, or a value of the wrong type, length or range.
        """
        unknown = sorted(
            set(spec) - {"name", "labels", "class_weights", "label_smoothing", "ordinal", "texts", "class_words"}
        )
        if unknown:
            raise ArtifactError(
                f"the card's task has an unknown entry {unknown[0]!r}; a newer version may have written it"
            )
        labels, weights = spec.get("labels"), spec.get("class_weights")
        smoothing, ordinal = spec.get("label_smoothing", 0.0), spec.get("ordinal", False)
        if not isinstance(labels, list) or not 2 <= len(labels) <= MAX_CLASSES:
            raise ArtifactError(f"the card's task needs a list of 2 to {MAX_CLASSES:,} labels")
        if not all(isinstance(label, str) and len(label) <= MAX_NAME for label in labels):
            raise ArtifactError(f"the card's task has a label that is not a text of at most {MAX_NAME} characters")
        if weights is not None and not (isinstance(weights, list) and all(_is_number(value) for value in weights)):
            raise ArtifactError("the card's task has class_weights that are not a list of numbers")
        if not _is_number(smoothing) or not isinstance(ordinal, bool):
            raise ArtifactError(
                "the card's task has a label_smoothing that is no number, or an ordinal that is no boolean"
            )
        texts = spec.get("texts", {})
        if not isinstance(texts, dict) or not all(isinstance(some, list) for some in texts.values()):
            raise ArtifactError("the card's task has texts that are not lists by class name")
        words = spec.get("class_words", {})
        if not isinstance(words, dict) or not all(isinstance(text, str) and text for text in words.values()):
            raise ArtifactError("the card's task has words that are not texts by class name")
        try:
            task = cls(
                labels, None if weights is None else torch.tensor(weights, dtype=torch.float32), smoothing, ordinal
            )
            task.texts, task.given_words = texts, words
            return task
        except (DataError, ValueError) as error:
            raise ArtifactError(f"the card's task is not valid: {error}") from None

    def undefined(self, dataset: Dataset, role: str) -> Sequence[str]:
        """AUROC, and kappa, where a part has one class only."""
        found = set(dataset.labels or ())
        if len(found) != 1 or len(self.labels) < 2:
            return ()
        lost = [name for name, told in (("AUROC", len(self.labels) == 2), ("kappa", self.ordinal)) if told]
        said = f", so {' and '.join(lost)} cannot be measured there" if lost else ""
        return (f"the {role} part has samples of class {self.labels[found.pop()]!r} only{said}",)

    def check_dataset(self, dataset: Dataset, role: str) -> None:
        """Refuse labels outside the classes, and labelled roles without labels or, for training, with one class only.

        Raises:
            DataError: names the value, its sample and the role.
        """
        if dataset.labels is None:
            if role in LABELLED_ROLES:
                raise DataError(f"role {role!r} has no labels; classification needs them")
            return
        if not len(dataset.labels):
            raise DataError(f"role {role!r} has no samples")
        found: set[int] = set()
        for number, value in enumerate(dataset.labels):
            index = _index(value)
            if index is None or not 0 <= index < self.outputs:
                sample = dataset.ids[number]
                raise DataError(f"role {role!r} has label {value!r} (sample {sample!r}), outside 0..{self.outputs - 1}")
            found.add(index)
        if role == "train" and len(found) < 2:
            raise DataError(
                f"role 'train' has samples of one class only ({self.labels[found.pop()]!r}); give at least 2"
            )

    def class_names(self) -> Sequence[str]:
        return self.labels

    def class_texts(self) -> Mapping[str, Sequence[str]]:
        return self.texts

    def class_words(self) -> Sequence[str]:
        """The texts that were given, or the names told in words: `AnnualCrop`, `annual_crop` -> `Annual Crop`, `annual crop`."""
        return [self.given_words.get(label) or told(label) for label in self.labels]

    def with_words(self, words: Mapping[str, str]) -> Classification:
        other = copy.copy(self)
        other.given_words = dict(words)
        return other

    def with_classes(self, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None) -> Classification:
        """The same task on other classes. Weights of the old classes are left out; they matter to training only."""
        other = copy.copy(self)
        fresh = Classification(names, None, self.label_smoothing, self.ordinal)
        other.labels, other.outputs, other.class_weights = fresh.labels, fresh.outputs, None
        other.texts = dict(texts or {})
        other.given_words = {name: self.given_words[name] for name in other.labels if name in self.given_words}
        return other

    def logits(self, output: Tensor) -> Tensor:
        return self.predict(output)["logits"]


def _index(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
