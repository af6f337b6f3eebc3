"""P-tuning: a small network produces the virtual tokens and is dropped after training (Liu et al., "GPT Understands, Too", 2103.10385).

P = MLP(LSTM(e)): pseudo-token embeddings e (L, d) pass a two-layer bidirectional LSTM of d/2 units per direction and an MLP d, d, d with
ReLU (official code). `encoder="mlp"` is PEFT's default, three linear layers. The tokens stand in front of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Batch, Edits, Insert, Task
from pt_core.errors import ConfigError
from torch import Tensor, nn

from pt_language.generated import GeneratedPrompt
from pt_language.method import RECIPE, LanguageMethod

ID = "p_tuning"
TITLE = "GPT Understands, Too"
TUNES = "an LSTM or MLP that produces L input vectors"
NEEDS = {"train": "texts with answers"}


@dataclass(frozen=True)
class PTuningConfig:
    prompt_length: Annotated[int, Ge(1)] = 20
    """L, virtual tokens."""
    encoder: Literal["lstm", "mlp"] = "lstm"
    """Network that produces them."""
    hidden: Annotated[int, Ge(1)] | None = None
    """Hidden width of the MLP, or of the LSTM per direction (default: d for the MLP, d / 2 for the LSTM)."""


class PTuning(GeneratedPrompt):
    """logits(ids) = LM([encoder(e); E(ids)]).

    Shapes: e (L, d), output (L, d). Parameters: L d plus the encoder; with the MLP of width k: d k + k + k k + k + k d + d; with the LSTM
    of h units per direction: 2 (4h (d + h) + 8h) + 2 (4h (2h + h) + 8h) + 2h d + d + d d + d. A head adds C * d + C.
    """

    Config = PTuningConfig
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "lr": 1e-3}
    config: PTuningConfig

    def __init__(self, config: PTuningConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim = self.backbone.dim
        self.tokens = nn.Parameter(torch.randn(config.prompt_length, dim))
        if config.encoder == "lstm":
            if config.hidden is None and dim % 2:
                raise ConfigError(f"the LSTM splits the width {dim} of {self.backbone.source!r} in two; give --hidden")
            hidden = config.hidden or dim // 2
            self.lstm = nn.LSTM(dim, hidden, num_layers=2, bidirectional=True, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(2 * hidden, dim), nn.ReLU(), nn.Linear(dim, dim))
        else:
            hidden = config.hidden or dim
            self.mlp = nn.Sequential(
                nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)
            )

    @property
    def reparameterised(self) -> bool:
        return True

    def produce(self) -> Tensor:
        """P (L, d)."""
        with torch.autocast(self.tokens.device.type, enabled=False):  # a tiny network; some CPUs have no bf16 LSTM
            states = self.lstm(self.tokens[None])[0][0] if self.config.encoder == "lstm" else self.tokens
            rows: Tensor = self.mlp(states)
        return rows

    def edits(self, batch: Batch) -> Edits:
        return {"input": Insert(self.value(), at="front", keep_output=True)}

    def prompt_rows(self) -> Tensor:
        return self.value()

    @classmethod
    def bank(cls, methods: Sequence[LanguageMethod]) -> Edits | None:
        values = [method.value() for method in methods if isinstance(method, PTuning)]
        if len({value.shape for value in values}) != 1:
            return None
        return {"input": Insert(torch.stack(values), at="front", keep_output=True)}
