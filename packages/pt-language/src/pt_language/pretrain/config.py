"""Network and training of the built-in model, and the phases of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt
from pt_core.run.declare.fields import PeakRate, WeightDecay

from pt_language.options import PretrainOptions


@dataclass(frozen=True)
class PretrainConfig(PretrainOptions):
    """Network and training of the built-in model."""

    context: Annotated[int, Ge(1)] = 2048
    """Longest input, text and prompt together."""
    tokens_per_step: Annotated[int, Ge(1)] = 2048
    """Tokens of a step; its sequences have the length of the current phase."""
    lr: PeakRate = 1e-3
    weight_decay: WeightDecay = 0.05
    label_weight: Annotated[float, Gt(0)] = 10.0
    """Weight of label tokens in the loss; tokens of running text, and the one behind a label, weigh 1."""
    warmup: Annotated[int, Ge(1)] = 150
    """Steps in which the learning rate rises."""
    keep_every: Annotated[int, Ge(1)] = 500
    """Steps between two measurements, each of which writes the folder."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training: short and easy sequences first, the full length last."""

    start: float
    """Begins at this share of the steps."""
    length: int
    """Tokens per sequence."""
    words: tuple[int, int]
    """Words per text."""
    kinds: tuple[float, float, float]
    """Shares of the kinds of episodes."""
    plain: float
    """Share of running text."""


PHASES = (
    Phase(0.0, 192, (3, 8), (0.2, 0.6, 0.2), 0.2),
    Phase(0.3, 384, (4, 14), (0.1, 0.5, 0.4), 0.2),
    Phase(0.75, 768, (4, 20), (0.05, 0.5, 0.45), 0.25),
)
