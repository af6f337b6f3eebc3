"""The task of this package: answer in words. Judged by the words, and where an answer is one of a few tags, by the tag it means."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from pt_core import Batch, Task
from pt_core.bridges.answers import IGNORED, answer_tokens, token_losses
from pt_core.errors import MAX_NAME, ArtifactError, DataError, name_problem
from pt_core.task import Evaluator, Predictions
from torch import Tensor
from torch.nn import functional as F

from pt_audio.adapters.language_model import LanguageModel
from pt_audio.data.batches import Limits
from pt_audio.options import TaskOptions
from pt_audio.tasks.metrics import AnswerEvaluator

MAX_TAGS = 10_000


class Answering(Protocol):
    """What a method offers to the task."""

    def __call__(self, batch: Batch) -> Tensor: ...

    def generate(self, batch: Batch, max_new_tokens: int, options: Mapping[str, Any]) -> Tensor: ...

    def tag(self, texts: Sequence[str], names: Sequence[str]) -> Tensor: ...


class Answers(Task):
    """Generate the answer.

    Args:
        tags: names of the classes that tagging answers are matched with.
        max_new_tokens, beams, repetition_penalty, length_penalty: of the search (the published evaluation: 256, 5, 1.5, 1).
        instruction_tokens, answer_tokens: longest texts, see `Limits`.
    """

    name = "answers"
    generates = True
    outputs = 0
    select: tuple[str, Literal["max", "min"]] = ("nll", "min")

    def __init__(
        self,
        tags: Sequence[str] = (),
        max_new_tokens: int = 256,
        beams: int = 5,
        repetition_penalty: float = 1.5,
        length_penalty: float = 1.0,
        instruction_tokens: int = 128,
        answer_tokens: int = 256,
    ) -> None:
        self.tags = tuple(tags)
        odd = name_problem(self.tags, "tag")
        if odd is not None:
            raise DataError(odd)
        self.max_new_tokens, self.beams = max_new_tokens, beams
        self.repetition_penalty, self.length_penalty = repetition_penalty, length_penalty
        self.limits = Limits(instruction_tokens, answer_tokens)
        self.lm: LanguageModel | None = None

    @classmethod
    def of(cls, options: TaskOptions, tags: Sequence[str]) -> Answers:
        """The task that options ask for, with these tags."""
        return cls(
            tags,
            options.max_new_tokens,
            options.beams,
            options.repetition_penalty,
            options.length_penalty,
            options.instruction_tokens,
            options.answer_tokens,
        )

    def with_classes(self, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None) -> Answers:
        """The same task with other tags that answers are matched with; the answers themselves are written freely."""
        other = copy.copy(self)
        other.tags = tuple(names)
        return other

    def attach(self, lm: LanguageModel) -> None:
        self.lm = lm

    def search(self) -> dict[str, Any]:
        """Options of the model's `generate`."""
        options: dict[str, Any] = {"num_beams": self.beams, "do_sample": False}
        if self.repetition_penalty != 1.0:
            options["repetition_penalty"] = self.repetition_penalty
        if self.beams > 1:
            options["length_penalty"] = self.length_penalty
        return options

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """(mean cross-entropy over the answers' tokens and end tokens, their number)."""
        answer = batch.target["answer"]
        count = answer_tokens(answer)
        return token_losses(output, answer).sum() / count, count

    def logs(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        answer = batch.target["answer"]
        right = (output.detach().argmax(-1) == answer) | (answer == IGNORED)
        return {"exact": right.all(1).float().mean()}

    def predict(self, output: Any) -> Predictions:
        return {"tokens": output}

    def answer(self, model: Answering, batch: Batch) -> Predictions:
        """tokens (batch, max_new_tokens), IGNORED behind the end; tag (batch,); nll and count (batch,) where the batch has answers."""
        tokens = model.generate(batch, self.max_new_tokens, self.search())
        assert self.lm is not None
        ended = (tokens == self.lm.end).long().cumsum(1) > 0
        tokens = tokens.masked_fill(ended, IGNORED)
        found = {"tokens": F.pad(tokens, (0, self.max_new_tokens - tokens.shape[1]), value=IGNORED)}
        if self.tags:
            found["tag"] = model.tag(self.texts(tokens), self.tags).to(tokens.device)
        if batch.target is not None:
            answer = batch.target["answer"]
            found["nll"] = token_losses(model(batch), answer).sum(1)
            found["count"] = (answer != IGNORED).sum(1)
        return found

    def texts(self, tokens: Tensor) -> list[str]:
        assert self.lm is not None
        return [self.lm.text(row) for row in tokens.tolist()]

    def evaluator(self) -> Evaluator:
        return AnswerEvaluator(self.texts, self.tags)

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        """id, label and correct (where the batch has answers), predicted, and for tags the one it means."""
        said = self.texts(predictions["tokens"])
        rows = []
        wanted = None if batch.target is None else self.texts(batch.target["answer"])
        for number, sample in enumerate(batch.ids):
            row: dict[str, Any] = {"id": sample}
            if wanted is not None:
                row["label"] = wanted[number]
            row["predicted"] = said[number]
            if "tag" in predictions and int(predictions["tag"][number]) >= 0:
                row["tag"] = self.tags[int(predictions["tag"][number])]
            if wanted is not None:
                row["correct"] = said[number] == wanted[number]
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        return {
            "tags": list(self.tags),
            "max_new_tokens": self.max_new_tokens,
            "beams": self.beams,
            "repetition_penalty": self.repetition_penalty,
            "length_penalty": self.length_penalty,
            "instruction_tokens": self.limits.instruction,
            "answer_tokens": self.limits.answer,
        }

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Answers:
        """Inverse of `to_json`.

        Raises:
            ArtifactError: another task, or an entry of the wrong type or range.
        """
        if spec.get("name") != cls.name:
            raise ArtifactError(
                f"the artifact's task {spec.get('name')!r} is unknown to this pt-audio; known: {cls.name}"
            )
        tags = spec.get("tags")
        good = isinstance(tags, list) and len(tags) <= MAX_TAGS
        if not good or not all(isinstance(tag, str) and len(tag) <= MAX_NAME for tag in tags or ()):
            raise ArtifactError("the card's task needs a list of texts 'tags'")
        whole = {name: spec.get(name) for name in ("max_new_tokens", "beams", "instruction_tokens", "answer_tokens")}
        real = {name: spec.get(name) for name in ("repetition_penalty", "length_penalty")}
        for name, value in whole.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**16:
                raise ArtifactError(f"the card's task needs a whole number {name!r}, it has {value!r}")
        for name, value in real.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                raise ArtifactError(f"the card's task needs a number {name!r}, it has {value!r}")
        return cls(tags or (), **whole, **real)  # type: ignore[arg-type]

    def check_dataset(self, dataset: Any, role: str) -> None:
        """Refuse a role without records, and one without answers where they are needed.

        Raises:
            DataError: names the role and the record.
        """
        records = getattr(dataset, "records", ())
        if not len(dataset):
            raise DataError(f"role {role!r} has no records")
        for record in records:
            if record.answer is None:
                raise DataError(f"record {record.name!r} of role {role!r} has no answer ('text_output')")
