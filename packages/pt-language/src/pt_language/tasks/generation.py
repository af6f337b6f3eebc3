"""Free text: answers that are written (generation), or only measured (language modelling)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pt_core import Batch, Task
from pt_core.bridges.answers import IGNORED, answer_tokens, token_losses
from pt_core.errors import ArtifactError, ConfigError
from pt_core.task import Evaluator, Predictions
from torch import Tensor
from torch.nn import functional as F

from pt_language.adapters.base import LanguageBackbone
from pt_language.data.templates import Encoder, Template
from pt_language.tasks.contract import MAX_TEMPLATE, LanguageModel, begin_of, read_special
from pt_language.tasks.token_metrics import TokenEvaluator, accepted_texts


class TokenTask(Task):
    """Answers are free text. `generation` also writes answers; `language-modelling` only measures them."""

    closed = False
    words: Sequence[str] = ()
    head_size = 0
    outputs = 0
    select: tuple[str, Literal["max", "min"]] = ("nll", "min")

    def __init__(self, template: str, max_new_tokens: int = 64, beams: int = 1, special_tokens: bool = True) -> None:
        self.template = Template(template)
        self.max_new_tokens, self.beams = max_new_tokens, beams
        self.special_tokens = special_tokens
        self.begin: tuple[int, ...] = ()
        self.tokenizer: Any = None
        self.end: int | None = None

    def attach(self, backbone: LanguageBackbone) -> None:
        if backbone.kind == "encoder":
            raise ConfigError(
                f"backbone {backbone.source!r} is an encoder and writes no text; use a causal or an encoder-decoder model"
            )
        self.begin = begin_of(backbone, self.special_tokens)
        self.tokenizer, self.end = backbone.tokenizer, Encoder(backbone.tokenizer).end_of(self.template)

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
        return TokenEvaluator(self.texts, self.generates)

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"id": sample} for sample in batch.ids]
        if "tokens" in predictions:
            for row, text in zip(rows, self.texts(predictions["tokens"]), strict=True):
                row["predicted"] = text
        if "nll" in predictions:
            accepted = accepted_texts(self.texts, batch)
            for number, row in enumerate(rows):
                row["nll"] = float(predictions["nll"][number] / predictions["count"][number])
                if "predicted" in row:
                    row |= {"answer": accepted[number][0], "correct": row["predicted"] in accepted[number]}
        return rows

    def to_json(self) -> dict[str, Any]:
        numbers = {"max_new_tokens": self.max_new_tokens, "beams": self.beams}
        return {"template": self.template.text, **numbers, "special_tokens": self.special_tokens}

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
            return cls(str(template), int(longest), int(beams), read_special(spec))  # type: ignore[arg-type]
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
