"""What tasks and methods ask of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pt_core import Batch
from pt_core.errors import ArtifactError
from pt_core.task import Predictions
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.data.templates import Encoder, Template

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
        special_tokens: whether texts have the tokenizer's own special tokens around them.
        begin: those in front; known when the task has been attached to a backbone.
    """

    template: Template
    closed: bool
    words: Sequence[str]
    head_size: int
    special_tokens: bool
    begin: tuple[int, ...]

    def attach(self, backbone: LanguageBackbone) -> None: ...

    def answer(self, model: LanguageModel, batch: Batch) -> Predictions: ...


def begin_of(backbone: LanguageBackbone, special_tokens: bool) -> tuple[int, ...]:
    """Special tokens that a text begins with; none where a network came without tokenizer."""
    if not special_tokens or backbone.tokenizer is None:
        return ()
    return backbone.around(Encoder(backbone.tokenizer).around)[0]


def read_special(spec: Mapping[str, Any]) -> bool:
    """Whether a stored task reads special tokens; those from before they were read do not say.

    Raises:
        ArtifactError: it is neither true nor false.
    """
    found = spec.get("special_tokens", False)
    if not isinstance(found, bool):
        raise ArtifactError(f"the card's task has special_tokens {found!r}; it must be true or false")
    return found
