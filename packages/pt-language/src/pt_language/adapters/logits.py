"""Log-probabilities of tokens, from logits of any precision."""

from __future__ import annotations

import torch
from pt_core.bridges.answers import IGNORED
from torch import Tensor


def wide(logits: Tensor) -> Tensor:
    """Half precision as float32; anything else as it is."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def gather_mean(logits: Tensor, choices: Tensor) -> Tensor:
    """(rows, choices, tokens, vocabulary) logits -> (rows, choices) mean log-probability of the tokens that are not IGNORED."""
    real = choices != IGNORED
    found = wide(logits).log_softmax(-1).gather(-1, choices.clamp(min=0).expand(logits.shape[:-1])[..., None])[..., 0]
    return (found * real).sum(-1) / real.sum(-1)
