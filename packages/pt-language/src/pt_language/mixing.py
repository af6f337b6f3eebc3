"""Rows of several tuned prompts in one forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from pt_core import Batch, Edits, Insert, KeyValue, Method
from pt_core.task import Predictions
from torch import Tensor

from pt_language.adapters import DecoderBackbone
from pt_language.method import LanguageMethod


def indexed(edits: Edits, index: Tensor) -> Edits:
    """Banked edits with the bank's row of every sample."""
    found: dict[str, Any] = {}
    for site, edit in edits.items():
        assert isinstance(edit, (Insert, KeyValue))
        found[site] = replace(edit, index=index)
    return found


def mixed(
    cls: type[LanguageMethod], methods: Sequence[Method]
) -> Callable[[Batch, Tensor], Sequence[Predictions]] | None:
    """A function (batch, tenant per row) -> predictions per row, where the prompts stack and every class word is one token; else None."""
    tenants = [method for method in methods if isinstance(method, cls)]
    tasks: list[Any] = [method.task for method in tenants]
    backbone = tenants[0].backbone
    closed = all(task.closed and not task.head_size and task.choices.shape[1] == 1 for task in tasks)
    if not closed or not isinstance(backbone, DecoderBackbone):
        return None
    with torch.no_grad():
        bank = cls.bank(tenants)
        lowered = None if bank is None else backbone.lower(bank)
    if lowered is None:
        return None

    def run(batch: Batch, index: Tensor) -> list[Predictions]:
        logits = backbone.prefill(batch.inputs, indexed(lowered, index)).extra["logits"][:, -1].float().log_softmax(-1)
        rows = []
        for number, tenant in enumerate(index.tolist()):
            chosen = logits[number : number + 1, tasks[tenant].choices[:, 0].to(logits.device)]
            rows.append(tasks[tenant].predict(chosen))
        return rows

    return run
