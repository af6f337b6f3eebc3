"""Rows of equal length together, for networks to whose results padding would matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from pt_core import Batch
from pt_core.data import take
from pt_core.randomness import current_rows, sampled_by
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone


def by_length(
    backbone: LanguageBackbone, batch: Batch, places: int, fn: Callable[[Batch], Tensor], fill: float = 0
) -> Tensor:
    """fn(batch) (row, ...). Where the network cannot have rows of these lengths together, fn gets the rows of one length at a time, without
    their padding, and the results are put in the order of the batch; fn must give one row (or the same number of them) per row.

    Args:
        batch: its inputs are what the network reads.
        places: positions that fn needs besides the text, in front of it and behind.
        fill: what is put behind shorter results, where they differ in their second axis.
    """
    mask = batch.inputs["mask"]
    if not backbone.runs_apart(mask, places):
        return fn(batch)
    lengths: list[int] = mask.long().sum(1).tolist()
    groups = {length: [row for row, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))}
    keys, found = current_rows(), []
    for length, rows in groups.items():
        with sampled_by(None if keys is None else keys[torch.tensor(rows, device=keys.device)]):
            found.append(fn(unpadded(take(batch, rows), length)))
    width = max((part.shape[1] for part in found if part.ndim > 1), default=0)
    if any(part.ndim > 1 and part.shape[1] < width for part in found):
        found = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=fill) for part in found]
    times = len(found[0]) // len(next(iter(groups.values())))
    order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
    order = (order[:, None] * times + torch.arange(times)).flatten()
    return torch.cat(found)[order.to(found[0].device)]


def unpadded(batch: Batch, length: int) -> Batch:
    """Rows that all have `length` real tokens, without their padding."""
    mask = batch.inputs["mask"]
    place = mask.long().argsort(dim=1, stable=True)[:, mask.shape[1] - length :]
    inputs: Mapping[str, Tensor] = {name: value.gather(1, place) for name, value in batch.inputs.items()}
    return replace(batch, inputs=inputs)
