"""Rows of a model's cache: some of them, or those of two caches together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from torch import Tensor
from torch.nn import functional as F


def pairs(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values per block.

    Raises:
        UserError: the model keeps something else.
    """
    found = bridge.pairs_of(cache)
    if found is None:
        raise UserError("this model's cache is no plain list of keys and values: rows cannot join or leave a batch")
    return found


def chosen(model: Any, cache: Any, mask: Tensor, rows: Sequence[int]) -> tuple[Any, Tensor]:
    """Some rows of a cache, without the columns that are padding in all of them."""
    index = torch.tensor(list(rows), device=mask.device)
    mask = mask[index]
    # Only leading padding can go in one piece; padding inside stays behind the mask.
    start = int((mask.cumsum(1) == 0).all(0).sum())
    whole = start == 0 and len(rows) == len(pairs(cache)[0][0])
    if whole:
        return cache, mask
    kept = [(k[index][:, :, start:], v[index][:, :, start:]) for k, v in pairs(cache)]
    return bridge.cache_of(model, kept), mask[:, start:]


def merged(model: Any, first: tuple[Any, Tensor], second: tuple[Any, Tensor]) -> tuple[Any, Tensor]:
    """Two caches with masks as one; the shorter is padded on the left."""
    length = max(first[1].shape[1], second[1].shape[1])

    def padded(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, 0, length - tensor.shape[2], 0))

    both = zip(pairs(first[0]), pairs(second[0]), strict=True)
    whole = [(torch.cat([padded(a), padded(c)]), torch.cat([padded(b), padded(d)])) for (a, b), (c, d) in both]
    mask = torch.cat([F.pad(m, (length - m.shape[1], 0)) for m in (first[1], second[1])])
    return bridge.cache_of(model, whole), mask


def stack(tensors: Sequence[Tensor | None], longest: int) -> Tensor:
    """(rows, kv_heads, longest, head_dim) of prefixes (1, kv_heads, L, head_dim), padded on the left; None is all padding."""
    like = next(t for t in tensors if t is not None)
    filled = [like.new_zeros(1, like.shape[1], 0, like.shape[3]) if t is None else t for t in tensors]
    return torch.cat([F.pad(t, (0, 0, longest - t.shape[2], 0)) for t in filled])
