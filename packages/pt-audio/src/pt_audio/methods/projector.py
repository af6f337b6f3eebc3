"""The plain way to feed audio to a frozen language model: one linear map of the encoder's outputs, without a Q-former.

    block = [indicator; W mean_k(LN(A)) + b, k = 1 .. m]     the N vectors of a segment in m stretches of time, each averaged

A baseline: it does not know the instruction, and m positions per segment stand for N vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from pt_core import Backbone, Task
from torch import Tensor, nn

from pt_audio.method import AudioMethod

ID = "projector"
TITLE = "Linear projection of audio vectors (baseline)"
TUNES = "one linear map from the encoder to the language model"
NEEDS = {"train": "clips with questions and answers"}
BACKBONES = {"encoder": "fit, predict", "text": "fit, predict", "lm": "fit, predict"}


@dataclass(frozen=True)
class ProjectorConfig:
    positions: Annotated[int, Ge(1), Le(4096)] = 32
    """m, positions per segment of audio."""


class Projector(AudioMethod):
    """Parameters: A d + d for the map, 2 A for the norm, d for the indicator."""

    Config = ProjectorConfig

    def __init__(self, config: ProjectorConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.per_segment = config.positions
        self.ln_audio = nn.LayerNorm(self.encoder.dim)
        self.llm_proj = nn.Linear(self.encoder.dim, self.lm.dim)
        self.indicator = nn.Parameter(torch.randn(1, 1, self.lm.dim) * 0.02)

    def make_blocks(self, vectors: Tensor, counts: Sequence[int], asked: Sequence[Sequence[int]]) -> list[Tensor]:
        spread = nn.functional.adaptive_avg_pool1d(self.ln_audio(vectors).transpose(1, 2), self.config.positions)
        prompts: Tensor = self.llm_proj(spread.transpose(1, 2))
        return [torch.cat([self.indicator[0], part.flatten(0, 1)]) for part in prompts.split(list(counts))]
