"""The Task contract: label space, target, loss, metrics, prediction records. A method never asks which task it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from pt_core.data import Batch, Dataset
from pt_core.errors import UserError

LOWER_IS_BETTER = frozenset(
    {
        "nll",
        "ece",
        "loss",
        "mse",
        "mae",
        "rmse",
        "smape",
        "mase",
        "crps",
        "perplexity",
        "bits",
        "brier",
        "forgetting",
        "distance",
        "error",
    }
)
"""Metrics that are errors, by the usual names; all others are better the larger they are."""
Predictions = Mapping[str, Tensor]
"""Tensors whose first axis is the sample, such as {"logits": (batch, class)}."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all samples, tables for the report, and (where asked) one record per sample in data order."""

    metrics: dict[str, float]
    tables: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)


class Evaluator(ABC):
    """Accumulates predictions over an evaluation; shards of several processes are merged by `compute`."""

    @abstractmethod
    def update(self, predictions: Predictions, batch: Batch) -> None: ...

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Metric name -> value over all samples of all processes."""

    def tables(self) -> dict[str, Any]:
        """JSON-able material for the report (confusion matrix, per-class table ...), after `compute`."""
        return {}


class Task(ABC):
    """What is predicted and how it is judged.

    Attributes:
        name: id of the task, such as `classification`.
        outputs: size of the output a method has to produce per unit (classes, for classification).
        select: metric that model selection uses, with its direction; None keeps the last weights.
    """

    name: ClassVar[str]
    eval_batch: ClassVar[int] = 32
    """Samples that `eval` predicts at once."""
    outputs: int
    select: tuple[str, Literal["max", "min"]] | None
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    """Entries of `to_json` that tuned tensors of classes belong to: where they differ, a warm start leaves those fresh."""
    lower_is_better: ClassVar[frozenset[str]] = LOWER_IS_BETTER
    """Metrics of which smaller values are better; of `name/part` the part before the stroke counts."""
    not_scores: ClassVar[frozenset[str]] = frozenset()
    """Entries among the metrics that say how much was measured, not how well."""
    generates: ClassVar[bool] = False
    """Whether an answer is searched token by token, so that its cost depends on what comes out."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, int]:
        """(mean loss over the units, number of units)."""

    @abstractmethod
    def predict(self, output: Any) -> Predictions:
        """What `forward` returned, as predictions that stand on their own."""

    @abstractmethod
    def evaluator(self) -> Evaluator: ...

    @abstractmethod
    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        """One flat JSON-able record per sample, starting with its id: a row of `predictions/`."""

    def line(self, record: Mapping[str, Any]) -> str:
        """A record as the line that `predict` prints."""
        score = record.get("score")
        shown = "" if score is None else f"\t{score:.4f}"
        return f"{record['id']}\t{record.get('predicted', '')}{shown}"

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The task as stored in card.json; `from_json` of the class registered under `name` restores it."""

    def logs(self, output: Any, batch: Batch) -> Mapping[str, float | Tensor]:
        """Further values to log for a training batch."""
        return {}

    def check_dataset(self, dataset: Dataset, role: str) -> None:  # noqa: B027 - not every task has a label space to check
        """Refuse data that does not fit the label space, before the first step.

        Raises:
            DataError: names the offending value and the role.
        """

    def undefined(self, dataset: Dataset, role: str) -> Sequence[str]:
        """Which metrics a part's labels already leave undefined, in lines for the user."""
        return ()

    def directions(self, metrics: Iterable[str]) -> dict[str, Literal["max", "min"]]:
        """Metric -> whether larger or smaller values are better; what is no score is left out."""
        scores = [name for name in metrics if name not in self.not_scores]
        found: dict[str, Literal["max", "min"]] = {
            name: "min" if name.partition("/")[0] in self.lower_is_better else "max" for name in scores
        }
        return found if self.select is None else {**found, self.select[0]: self.select[1]}

    def class_names(self) -> Sequence[str]:
        """Names of the classes, or empty where the task has none."""
        return ()

    def class_texts(self) -> Mapping[str, Sequence[str]]:
        """Class name -> texts that describe it, where they were given (--class-names FILE.json)."""
        return {}

    def class_words(self) -> Sequence[str]:
        """The text that stands for each class in a prompt, in the order of the classes."""
        return self.class_names()

    def with_words(self, words: Mapping[str, str]) -> Task:
        """The same task with texts in place of some class names, where it has a use for them."""
        return self

    def with_classes(self, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None) -> Task:
        """The same task on other classes, for methods that can be retargeted.

        Raises:
            UserError: the task has no classes, or cannot have others.
        """
        raise UserError(f"task {self.name!r} has no class names that could be replaced")

    def logits(self, output: Any) -> Tensor:
        """(batch, class) scores whose softmax is the prediction, for strategies that label or distil.

        Raises:
            UserError: the task has no classes.
        """
        raise UserError(f"task {self.name!r} gives no scores per class")

    def files(self, predictions: Predictions, batch: Batch) -> Sequence[Mapping[str, bytes]]:
        """Per sample, the files that its prediction is (name -> content, such as an edited image); none where a record says it all."""
        return [{} for _ in range(len(batch))]
