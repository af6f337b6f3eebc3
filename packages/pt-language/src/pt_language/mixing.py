"""Rows of several tuned prompts in one forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from pt_core import Batch, Edits, Insert, KeyValue
from pt_core.task import Predictions
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.adapters.lengths import by_length


def indexed(edits: Edits, index: Tensor) -> Edits:
    """Banked edits with the bank's row of every sample."""
    found: dict[str, Any] = {}
    for site, edit in edits.items():
        assert isinstance(edit, (Insert, KeyValue))
        found[site] = replace(edit, index=index)
    return found


def mixed(
    backbone: LanguageBackbone, tasks: Sequence[Any], bank: Callable[[], Edits | None]
) -> Callable[[Batch, Tensor], Sequence[Predictions]] | None:
    """A function (batch, tenant per row) -> predictions per row, where the prompts stack and every class word is one token; else None.

    Args:
        tasks: of the tenants.
        bank: gives the tenants' edits stacked along a first axis, or None where they do not stack.
    """
    closed = all(task.closed and not task.head_size and task.choices.shape[1] == 1 for task in tasks)
    if not closed or not isinstance(backbone, DecoderBackbone):
        return None
    with torch.no_grad():
        stacked = bank()
        lowered = None if stacked is None else backbone.lower(stacked)
    if lowered is None:
        return None

    def run(batch: Batch, index: Tensor) -> list[Predictions]:
        banked = replace(batch, extra={**batch.extra, "prompt": index})

        def last(part: Batch) -> Tensor:
            logits: Tensor = backbone.prefill(part.inputs, indexed(lowered, part.extra["prompt"])).extra["logits"][
                :, -1
            ]
            return logits.float().log_softmax(-1)

        logits = by_length(backbone, banked, backbone.prompt_length(lowered), last)
        rows = []
        for number, tenant in enumerate(index.tolist()):
            chosen = logits[number : number + 1, tasks[tenant].choices[:, 0].to(logits.device)]
            rows.append(tasks[tenant].predict(chosen))
        return rows

    return run
