"""What a language model's behaviour is told by: two short texts of unequal length, made of counters, and scores of their real tokens."""

from __future__ import annotations

import torch
from torch import Tensor

PROBE = 8
"""Tokens of the longer probe text. Windows and position scalings that begin behind it are not seen."""
STEP, START = 7919, 11


def probe_texts(vocabulary: int, limit: int | None = None, left: bool = True) -> dict[str, Tensor]:
    """{"ids", "mask"} (2, tokens): ids spread over the vocabulary; the second text is shorter and padded on one side.

    Args:
        limit: longest input of the model.
        left: where the padding is.
    """
    tokens = PROBE if limit is None else max(1, min(PROBE, limit))
    ids = ((torch.arange(2 * tokens) * STEP + START) % vocabulary).view(2, tokens)
    mask = torch.ones(2, tokens, dtype=torch.long)
    gap = tokens // 3
    mask[1, slice(0, gap) if left else slice(tokens - gap, tokens)] = 0
    return {"ids": ids, "mask": mask}


def scores(logits: Tensor, mask: Tensor) -> Tensor:
    """(real tokens, vocabulary): logits less their mean over the vocabulary, which changes no probability and would set the scale."""
    real = logits[mask.bool()].float()
    return real - real.mean(-1, keepdim=True)
