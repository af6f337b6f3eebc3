"""Answers of a language model as token ids: which positions count, their losses, and how close the words are."""

from __future__ import annotations

from collections import Counter

from torch import Tensor
from torch.nn import functional as F

from pt_core.bridges.transformers import valueless

IGNORED = -100
"""Target value of positions without loss."""


def answer_tokens(answer: Tensor) -> int:
    """How many tokens of (batch, answer) have a loss; all of them where there are no values (cost counting)."""
    count = (answer != IGNORED).sum()
    return answer.numel() if valueless(count) else int(count)


def token_losses(logits: Tensor, answer: Tensor, smoothing: float = 0.0) -> Tensor:
    """(batch, answer): cross-entropy per token in float32 or wider, 0 where the answer is IGNORED."""
    wide = logits if logits.element_size() >= 4 else logits.float()
    flat = F.cross_entropy(
        wide.flatten(0, 1), answer.flatten(), reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    return flat.view_as(answer)


def word_f1(have: str, want: str) -> float:
    """Harmonic mean of precision and recall of the words, counted with repetition."""
    a, b = have.lower().split(), want.lower().split()
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else float(a == b)
