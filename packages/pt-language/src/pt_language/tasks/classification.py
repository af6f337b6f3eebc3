"""Classes of texts, told by label words or by a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pt_core import Batch
from pt_core.bridges.answers import IGNORED, answer_tokens, token_losses
from pt_core.errors import ArtifactError, ConfigError, DataError, UserError
from pt_core.run.tasks.classification import Classification
from pt_core.task import Predictions
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.adapters.logits import wide
from pt_language.data.templates import Encoder, Template
from pt_language.data.tokens import pad
from pt_language.tasks.contract import MAX_TEMPLATE, LanguageModel, begin_of, read_special


class TextClassification(Classification):
    """One of C classes, named by label words (`words`) or by the outputs of a linear head (`head`).

    With words, the loss is the cross-entropy of the right words' tokens (mean over tokens) and a class's score is the mean
    log-probability of its tokens after the text, so that words of several tokens are not at a disadvantage. Of batches without answers
    (another network's labels, a wrapped network) methods give the scores, and the loss is the cross-entropy of their softmax.
    """

    closed = True

    def __init__(
        self, labels: Sequence[str], template: str, words: Sequence[str] | None = None, scoring: Literal["words", "head"] = "words",
        class_weights: Tensor | None = None, label_smoothing: float = 0.0, ordinal: bool = False, special_tokens: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(labels, class_weights, label_smoothing, ordinal)
        self.template = Template(template)
        self.words = list(words or self.labels)
        self.scoring = scoring
        self.special_tokens = special_tokens
        self.begin: tuple[int, ...] = ()
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
            UserError: there is no tokenizer.
        """
        self.begin = begin_of(backbone, self.special_tokens)
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
        if _per_class(output):
            return super().loss(output, batch)
        answer = batch.extra["answer"]
        losses, count = token_losses(output, answer, self.label_smoothing), answer_tokens(answer)
        if self.class_weights is not None:
            losses = losses * self.class_weights.to(losses)[batch.target][:, None]
        return losses.sum() / count, count

    def logs(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        if _per_class(output):
            return super().logs(output, batch)
        answer = batch.extra["answer"]
        right = (output.detach().argmax(-1) == answer) | (answer == IGNORED)
        return {"exact": right.all(1).float().mean()}

    def logits(self, output: Tensor) -> Tensor:
        """(batch, class): as they are, or from logits of an answer's tokens, where every label word is one token.

        Raises:
            UserError: label words of several tokens; logits of one word's tokens do not tell the others' scores.
        """
        if _per_class(output):
            return output
        if self.choices.shape[1] != 1:
            raise UserError("scores per class need label words of one token, a head, or a batch without answers")
        scores: Tensor = wide(output[:, 0]).log_softmax(-1)[:, self.choices[:, 0].to(output.device)]
        return scores

    def with_classes(
        self, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None
    ) -> TextClassification:
        """The same task on other classes. A class is told by the first of the texts that describe it, by the word it has here, or by its
        name; a method tokenises the words when it takes the task (`attach`)."""
        told = {name: some[0] for name, some in (texts or {}).items() if some}
        known = {**dict(zip(self.labels, self.words, strict=True)), **told}
        words = [known.get(name, name) for name in names]
        other = TextClassification(
            names,
            self.template.text,
            words,
            self.scoring,
            None,
            self.label_smoothing,
            self.ordinal,
            self.special_tokens,
        )
        other.texts = dict(texts or {})
        return other

    def answer(self, model: LanguageModel, batch: Batch) -> Predictions:
        """{"logits": (batch, class)}: outputs of the head, or scores of the words."""
        if self.scoring == "head":
            return self.predict(model.head_logits(batch))
        return self.predict(model.choice_scores(batch, self.choices.to(batch.inputs["ids"].device)))

    def to_json(self) -> dict[str, Any]:
        spec = {**super().to_json(), "template": self.template.text, "scoring": self.scoring}
        spec["special_tokens"] = self.special_tokens
        return spec if self.words == self.labels else {**spec, "words": self.words}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> TextClassification:
        own = {key: spec.get(key) for key in ("template", "words", "scoring", "special_tokens")}
        plain = Classification.from_json({key: value for key, value in spec.items() if key not in own})
        template, words, scoring = own["template"], own["words"], own["scoring"]
        if not isinstance(template, str) or len(template) > MAX_TEMPLATE or scoring not in ("words", "head"):
            raise ArtifactError("the card's task needs a template and a scoring of 'words' or 'head'")
        if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise ArtifactError("the card's task has words that are not a list of texts")
        try:
            task = cls(
                plain.labels, template, words, scoring, plain.class_weights, plain.label_smoothing, plain.ordinal, read_special(spec)
            )  # fmt: skip
        except (ConfigError, DataError) as error:
            raise ArtifactError(f"the card's task is not valid: {error}") from None
        task.texts = plain.texts
        return task


def _per_class(output: Tensor) -> bool:
    """Whether a method gave (batch, class) scores, not (batch, answer, vocabulary) logits."""
    return output.ndim == 2
