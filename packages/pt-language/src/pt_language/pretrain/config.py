"""Network and training of the built-in model, and the phases of its training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PretrainConfig:
    """Network and training of the built-in model."""

    vocabulary: int = 4096
    """V, tokens of the byte-level BPE."""
    width: int = 128
    """d."""
    depth: int = 3
    """Blocks."""
    heads: int = 4
    """Attention heads."""
    head_size: int = 64
    """Width of a head: comparing texts needs many dimensions that rotate slowly."""
    inner: int = 256
    """Width of the gated MLP."""
    context: int = 2048
    """Longest input, text and prompt together."""
    steps: int = 3000
    """Optimiser steps."""
    tokens_per_step: int = 2048
    """Tokens of a step; its sequences have the length of the current phase."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay."""
    label_weight: float = 10.0
    """Weight of label tokens in the loss; tokens of running text, and the one behind a label, weigh 1."""
    warmup: int = 150
    """Steps in which the learning rate rises."""
    keep_every: int = 500
    """Steps between two measurements, each of which writes the folder."""
    seed: int = 0
    """Seed."""


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
