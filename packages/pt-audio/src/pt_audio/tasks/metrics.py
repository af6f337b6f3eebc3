"""Metrics of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pt_core import Batch
from pt_core.bridges.answers import word_f1
from pt_core.errors import DataError
from pt_core.task import Evaluator, Predictions
from torch import Tensor

from pt_audio.data.records import TASKS


class AnswerEvaluator(Evaluator):
    """exact_match and word_f1 over all records and per kind of question; tag_accuracy over tagging records; nll per token.

    Args:
        texts: rows of token ids as text.
        tags: names of the classes of tagging records.
    """

    def __init__(self, texts: Callable[[Tensor], list[str]], tags: Sequence[str]) -> None:
        self.texts, self.tags = texts, tags
        self.sums = torch.zeros(2 + 3 * (1 + len(TASKS)), dtype=torch.float64)
        self.matrix = torch.zeros(len(tags), len(tags) + 1, dtype=torch.float64)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        if batch.target is None:
            raise DataError("evaluation needs answers; these records have none")
        self.sums[0] += predictions["nll"].double().sum().cpu()
        self.sums[1] += predictions["count"].sum().cpu()
        have, want = self.texts(predictions["tokens"]), self.texts(batch.target["answer"])
        for said, right, kind in zip(have, want, batch.extra["task"].tolist(), strict=True):
            values = torch.tensor([1.0, float(said == right), word_f1(said, right)], dtype=torch.float64)
            for group in (0, 1 + kind):
                self.sums[2 + 3 * group : 5 + 3 * group] += values
        if "tag" in predictions:
            for true, guess in zip(batch.target["tag"].tolist(), predictions["tag"].tolist(), strict=True):
                if true >= 0:
                    self.matrix[true, guess] += 1  # -1, no tag, is the last column

    def compute(self) -> dict[str, float]:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.sums)
            dist.all_reduce(self.matrix)
        sums = self.sums.tolist()
        rows = sums[2]
        found = {"exact_match": sums[3] / rows, "word_f1": sums[4] / rows, "nll": sums[0] / sums[1]}
        total = float(self.matrix.sum())
        if total:
            found["tag_accuracy"] = float(self.matrix.diagonal().sum()) / total
        present = [number for number in range(len(TASKS)) if sums[5 + 3 * number]]
        if len(present) > 1:
            found |= {f"exact_match/{TASKS[n]}": sums[6 + 3 * n] / sums[5 + 3 * n] for n in present}
        return found

    def tables(self) -> dict[str, Any]:
        """Confusion over the tags; answers that mean none of them are a class of their own."""
        if not float(self.matrix.sum()):
            return {}
        names = [*self.tags, "(none)"]
        square = torch.cat([self.matrix, torch.zeros(1, len(names), dtype=torch.float64)])
        return {"confusion": {"labels": names, "matrix": square.long().tolist()}}
