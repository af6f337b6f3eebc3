"""Metrics of free text."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pt_core import Batch
from pt_core.bridges.answers import IGNORED, word_f1
from pt_core.errors import DataError
from pt_core.task import Evaluator, Predictions
from torch import Tensor


def accepted_texts(texts: Callable[[Tensor], list[str]], batch: Batch) -> list[list[str]]:
    """Accepted answers of every row; the learned one first."""
    found = [[text] for text in texts(batch.extra["answer"])]
    if "others" in batch.extra:
        for row, others in zip(found, batch.extra["others"], strict=True):
            row += texts(others[(others != IGNORED).any(1)])
    return found


class TokenEvaluator(Evaluator):
    """nll and perplexity per token; exact match and word F1 where answers are generated: those of the nearest accepted answer (nll and
    perplexity are of the first).

    Args:
        texts: rows of token ids as text.
        generates: whether answers are written.
    """

    def __init__(self, texts: Callable[[Tensor], list[str]], generates: bool) -> None:
        self.texts, self.generates = texts, generates
        self.sums = torch.zeros(5, dtype=torch.float64)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if "nll" not in predictions:
            raise DataError("evaluation needs answers; this part of the data has none")
        exact = overlap = 0.0
        if "tokens" in predictions:
            have, accepted = self.texts(predictions["tokens"]), accepted_texts(self.texts, batch)
            exact = float(sum(a in right for a, right in zip(have, accepted, strict=True)))
            overlap = sum(max(word_f1(a, b) for b in right) for a, right in zip(have, accepted, strict=True))
        sums = [float(predictions["nll"].double().sum()), float(predictions["count"].sum()), exact, overlap, len(batch)]
        self.sums += torch.tensor(sums, dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        import torch.distributed as dist

        sums = self.sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        nll, tokens, exact, overlap, rows = sums.tolist()
        found = {"nll": nll / tokens, "perplexity": math.exp(min(nll / tokens, 700.0))}
        if self.generates:
            found = {"exact_match": exact / rows, "word_f1": overlap / rows, **found}
        return found
