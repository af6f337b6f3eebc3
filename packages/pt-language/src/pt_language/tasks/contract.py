"""What tasks and methods ask of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pt_core import Batch
from pt_core.task import Predictions
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.data.templates import Template

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
