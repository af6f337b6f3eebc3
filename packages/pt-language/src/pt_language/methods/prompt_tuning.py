"""Prompt Tuning: L trainable vectors in front of the embedded text of a frozen language model (Lester et al., EMNLP 2021, 2104.08691).

X' = [P; E(ids)], with positions and attention mask over the whole. Behind a causal mask the states of P depend on nothing that follows,
so P runs once per step with batch 1 and all rows share its keys and values (same outputs and gradients).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from pt_core import Backbone, Batch, Edits, Insert, Task
from torch import Tensor, nn

from pt_language.initial import cycled, initial_rows
from pt_language.method import RECIPE, LanguageMethod

ID = "prompt_tuning"
TITLE = "The Power of Scale for Parameter-Efficient Prompt Tuning"
TUNES = "L input vectors in front of the text"
NEEDS = {"train": "texts with answers"}


@dataclass(frozen=True)
class PromptTuningConfig:
    prompt_length: Annotated[int, Ge(1)] = 100
    """L, virtual tokens (the paper searches 1, 5, 20, 100, 150)."""
    init: Literal["vocabulary", "labels", "text", "uniform", "uniform_positive", "normal"] = "vocabulary"
    """Start from embeddings of frequent tokens, of the label words, or of `init_text`, from U[-0.5, 0.5], from U[0, 0.5) (the released
    configuration), or from N(0, 0.02^2)."""
    init_text: str | None = None
    """Text for init='text'; shorter ones are filled up as `fill` says."""
    fill: Literal["vocabulary", "repeat"] = "vocabulary"
    """What fills rows that labels or text leave: sampled tokens (official code) or the same tokens again (PEFT)."""
    population: Annotated[int, Gt(0)] = 5000
    """Token ids below this are sampled by init='vocabulary'."""

    def __post_init__(self) -> None:
        if (self.init == "text") != (self.init_text is not None):
            raise ValueError("init='text' and init_text belong together")


class PromptTuning(LanguageMethod):
    """logits(ids) = LM([P; E(ids)]).

    Shapes: prompt P (L, d), float32. Parameters: L * d, and C * d + C with a classification head.

    The paper's recipe for T5 is Adafactor at a constant 0.3 for 30,000 steps of 32 samples; with AdamW, which this package has, rates
    between 1e-3 and 0.3 are usual, and the default is ours.
    """

    Config = PromptTuningConfig
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "lr": 0.01, "weight_decay": 1e-5, "schedule": "constant"}
    config: PromptTuningConfig

    def __init__(self, config: PromptTuningConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        rows = initial_rows(
            self.backbone,
            config.prompt_length,
            config.init,
            self.text_task,
            config.init_text,
            config.fill,
            config.population,
        )
        self.prompt = nn.Parameter(rows)

    def edits(self, batch: Batch) -> Edits:
        return {"input": Insert(self.prompt, at="front", keep_output=True)}

    def prompt_rows(self) -> Tensor:
        return self.prompt

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """A longer prompt starts as a shorter one, repeated."""
        return cycled(tensor, shape) if name == "prompt" else None

    @classmethod
    def bank(cls, methods: Sequence[LanguageMethod]) -> Edits | None:
        prompts: list[Tensor] = [method.prompt for method in methods if isinstance(method, PromptTuning)]
        if len({prompt.shape for prompt in prompts}) != 1:
            return None
        return {"input": Insert(torch.stack(prompts), at="front", keep_output=True)}
