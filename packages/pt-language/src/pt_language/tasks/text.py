"""Tasks on text: classes by label words or by a head, generated answers, running text.

A task asks a method for what language models can do (logits of given answers, scores of choices, generated tokens); it does not know
how the method changes the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from pt_core import Batch, Dataset, Task
from pt_core.bridges.answers import IGNORED, answer_tokens, token_losses, word_f1
from pt_core.errors import ArtifactError, ConfigError, DataError
from pt_core.run.tasks.classification import Classification
from pt_core.task import Evaluator, Predictions
from torch import Tensor
from torch.nn import functional as F

from pt_language.adapters import LanguageBackbone
from pt_language.data import pad
from pt_language.templates import Encoder, Template

MAX_TEMPLATE = 10_000


class LanguageModel(Protocol):
    """What a method offers to a task."""

    def head_logits(self, batch: Batch) -> Tensor: ...

    def target_logits(self, batch: Batch) -> Tensor: ...

    def choice_scores(self, batch: Batch, choices: Tensor) -> Tensor: ...

    def generate(self, batch: Batch, max_new_tokens: int, options: Mapping[str, Any]) -> Tensor: ...


class TextTask(Protocol):
    """What pt-language asks of a task besides the contract of pt-core.

    Attributes:
        template: how rows become text.
        closed: whether answers are classes.
        words: answer of every class.
        head_size: outputs of a classification head, 0 where tokens are predicted.
    """

    template: Template
    closed: bool
    words: Sequence[str]
    head_size: int

    def attach(self, backbone: LanguageBackbone) -> None: ...

    def answer(self, model: LanguageModel, batch: Batch) -> Predictions: ...


class TextClassification(Classification):
    """One of C classes, named by label words (`words`) or by the outputs of a linear head (`head`).

    With words, the loss is the cross-entropy of the right words' tokens (mean over tokens) and a class's score is the mean
    log-probability of its tokens after the text, so that words of several tokens are not at a disadvantage.
    """

    closed = True

    def __init__(
        self, labels: Sequence[str], template: str, words: Sequence[str] | None = None, scoring: Literal["words", "head"] = "words",
        class_weights: Tensor | None = None, label_smoothing: float = 0.0, ordinal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(labels, class_weights, label_smoothing, ordinal)
        self.template = Template(template)
        self.words = list(words or self.labels)
        self.scoring = scoring
        if len(self.words) != len(self.labels):
            raise ConfigError(
                f"{len(self.words)} label words for {len(self.labels)} classes ({', '.join(self.labels)})"
            )
        twice = next((word for word in self.words if self.words.count(word) > 1), None)
        if twice is not None:
            raise ConfigError(f"label word {twice!r} stands for two classes; give every class its own")
        self.head_size = self.outputs if scoring == "head" else 0
        self.choices = torch.zeros(len(self.labels), 0, dtype=torch.long)

    def attach(self, backbone: LanguageBackbone) -> None:
        """Tokenise the label words.

        Raises:
            DataError: a word of zero tokens, or two words of the same tokens.
        """
        if self.scoring == "head":
            return
        if backbone.kind == "encoder":
            raise ConfigError(
                f"backbone {backbone.source!r} is an encoder and cannot score label words; use --scoring head"
            )
        encoder = Encoder(backbone.tokenizer)
        rows = [encoder.answer(self.template, word).ids for word in self.words]
        for word, row in zip(self.words, rows, strict=True):
            if not row:
                raise DataError(f"label word {word!r} has zero tokens; give another one with --label-words")
            if rows.count(row) > 1:
                raise DataError(
                    f"label word {word!r} has the same tokens as another class's; give another one with --label-words"
                )
        ids, real = pad(rows, left=False)
        self.choices = ids.masked_fill(real == 0, IGNORED)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, int]:
        if self.scoring == "head":
            return super().loss(output, batch)
        answer = batch.extra["answer"]
        losses, count = token_losses(output, answer, self.label_smoothing), answer_tokens(answer)
        if self.class_weights is not None:
            losses = losses * self.class_weights.to(losses)[batch.target][:, None]
        return losses.sum() / count, count

    def logs(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        if self.scoring == "head":
            return super().logs(output, batch)
        answer = batch.extra["answer"]
        right = (output.detach().argmax(-1) == answer) | (answer == IGNORED)
        return {"exact": right.all(1).float().mean()}

    def answer(self, model: LanguageModel, batch: Batch) -> Predictions:
        """{"logits": (batch, class)}: outputs of the head, or scores of the words."""
        if self.scoring == "head":
            return self.predict(model.head_logits(batch))
        return self.predict(model.choice_scores(batch, self.choices.to(batch.inputs["ids"].device)))

    def to_json(self) -> dict[str, Any]:
        spec = {**super().to_json(), "template": self.template.text, "scoring": self.scoring}
        return spec if self.words == self.labels else {**spec, "words": self.words}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> TextClassification:
        own = {key: spec.get(key) for key in ("template", "words", "scoring")}
        plain = Classification.from_json({key: value for key, value in spec.items() if key not in own})
        template, words, scoring = own["template"], own["words"], own["scoring"]
        if not isinstance(template, str) or len(template) > MAX_TEMPLATE or scoring not in ("words", "head"):
            raise ArtifactError("the card's task needs a template and a scoring of 'words' or 'head'")
        if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise ArtifactError("the card's task has words that are not a list of texts")
        try:
            return cls(
                plain.labels, template, words, scoring, plain.class_weights, plain.label_smoothing, plain.ordinal
            )
        except (ConfigError, DataError) as error:
            raise ArtifactError(f"the card's task is not valid: {error}") from None


class TokenTask(Task):
    """Answers are free text. `generation` also writes answers; `language-modelling` only measures them."""

    closed = False
    words: Sequence[str] = ()
    head_size = 0
    outputs = 0
    select: tuple[str, Literal["max", "min"]] = ("nll", "min")

    def __init__(self, template: str, max_new_tokens: int = 64, beams: int = 1) -> None:
        self.template = Template(template)
        self.max_new_tokens, self.beams = max_new_tokens, beams
        self.tokenizer: Any = None
        self.end: int | None = None

    def attach(self, backbone: LanguageBackbone) -> None:
        if backbone.kind == "encoder":
            raise ConfigError(
                f"backbone {backbone.source!r} is an encoder and writes no text; use a causal or an encoder-decoder model"
            )
        self.tokenizer, self.end = backbone.tokenizer, Encoder(backbone.tokenizer).end

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, int]:
        answer = batch.extra["answer"]
        count = answer_tokens(answer)
        return token_losses(output, answer).sum() / count, count

    def predict(self, output: Any) -> Predictions:
        return {"tokens": output}

    def answer(self, model: LanguageModel, batch: Batch) -> Predictions:
        """tokens (batch, max_new_tokens), padded by IGNORED; nll and count (batch,) where the batch has answers."""
        found: dict[str, Tensor] = {}
        if self.generates:
            options: dict[str, Any] = {"num_beams": self.beams, "do_sample": False, "eos_token_id": self.end}
            tokens = model.generate(batch, self.max_new_tokens, options)
            if self.end is not None:
                ended = (tokens == self.end).long().cumsum(1) > 0
                tokens = tokens.masked_fill(ended, IGNORED)
            found["tokens"] = F.pad(tokens, (0, self.max_new_tokens - tokens.shape[1]), value=IGNORED)
        if "answer" in batch.extra:
            answer = batch.extra["answer"]
            found["nll"] = token_losses(model.target_logits(batch), answer).sum(1)
            found["count"] = (answer != IGNORED).sum(1)
        return found

    def texts(self, tokens: Tensor) -> list[str]:
        """Rows of token ids as text; IGNORED and the end token are left out."""
        rows = [[token for token in row if token not in (IGNORED, self.end)] for row in tokens.tolist()]
        return [self.tokenizer.decode(row).strip() for row in rows]

    def evaluator(self) -> Evaluator:
        return TokenEvaluator(self)

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"id": sample} for sample in batch.ids]
        if "tokens" in predictions:
            for row, text in zip(rows, self.texts(predictions["tokens"]), strict=True):
                row["predicted"] = text
        if "nll" in predictions:
            wanted = self.texts(batch.extra["answer"])
            for number, row in enumerate(rows):
                row["nll"] = float(predictions["nll"][number] / predictions["count"][number])
                if "predicted" in row:
                    row |= {"answer": wanted[number], "correct": row["predicted"] == wanted[number]}
        return rows

    def to_json(self) -> dict[str, Any]:
        return {"template": self.template.text, "max_new_tokens": self.max_new_tokens, "beams": self.beams}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> TokenTask:
        """Inverse of `to_json`.

        Raises:
            ArtifactError: an entry is missing, of the wrong type, or out of range.
        """
        template, longest, beams = spec.get("template"), spec.get("max_new_tokens"), spec.get("beams")
        good = isinstance(template, str) and len(template) <= MAX_TEMPLATE
        numbers = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**20 for n in (longest, beams))
        if not good or not numbers:
            raise ArtifactError("the card's task needs a template, max_new_tokens and beams")
        try:
            return cls(str(template), int(longest), int(beams))  # type: ignore[arg-type]
        except ConfigError as error:
            raise ArtifactError(f"the card's task is not valid: {error}") from None


class Generation(TokenTask):
    """Write the answer."""

    name = "generation"
    generates = True


class LanguageModelling(TokenTask):
    """Predict running text."""

    name = "language-modelling"
    generates = False


class TokenEvaluator(Evaluator):
    """nll and perplexity per token; exact match and word F1 where answers are generated."""

    def __init__(self, task: TokenTask) -> None:
        self.task = task
        self.sums = torch.zeros(5, dtype=torch.float64)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if "nll" not in predictions:
            raise DataError("evaluation needs answers; this part of the data has none")
        exact = overlap = 0.0
        if "tokens" in predictions:
            have, want = self.task.texts(predictions["tokens"]), self.task.texts(batch.extra["answer"])
            exact = float(sum(a == b for a, b in zip(have, want, strict=True)))
            overlap = sum(word_f1(a, b) for a, b in zip(have, want, strict=True))
        sums = [float(predictions["nll"].double().sum()), float(predictions["count"].sum()), exact, overlap, len(batch)]
        self.sums += torch.tensor(sums, dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        import torch.distributed as dist

        sums = self.sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        nll, tokens, exact, overlap, rows = sums.tolist()
        found = {"nll": nll / tokens, "perplexity": math.exp(min(nll / tokens, 700.0))}
        if self.task.generates:
            found = {"exact_match": exact / rows, "word_f1": overlap / rows, **found}
        return found


def task_from_json(spec: Mapping[str, Any]) -> Task:
    """The task stored in a card.

    Raises:
        ArtifactError: unknown or malformed.
    """
    known: dict[str, Any] = {cls.name: cls for cls in (TextClassification, Generation, LanguageModelling)}
    cls = known.get(str(spec.get("name")))
    if cls is None:
        raise ArtifactError(
            f"the artifact's task {spec.get('name')!r} is unknown to this pt-language; known: {', '.join(known)}"
        )
    found: Task = cls.from_json(spec)
    return found


def check_answers(dataset: Dataset, role: str) -> None:
    """Refuse a role without rows.

    Raises:
        DataError: names the role.
    """
    if not len(dataset):
        raise DataError(f"role {role!r} has no rows")
