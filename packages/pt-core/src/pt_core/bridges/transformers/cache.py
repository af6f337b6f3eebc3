"""The model's own cache: filled by prefix vectors or by given keys and values, handed to a batch, repeated, cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pt_core.bridges.transformers.model import accepts, packed_positions, seen
from pt_core.errors import UserError

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (rows, kv_heads, prefix, head_dim) of every block."""


def run_prefix(model: Any, embeds: Tensor, mask: Tensor | None = None) -> Any:
    """The cache behind prefix vectors (rows, prefix, dim); with gradients where `embeds` has them."""
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    options: dict[str, Any] = {"position_ids": packed_positions(mask)} if accepts(model, "position_ids") else {}
    if accepts(model, "logits_to_keep"):
        options["logits_to_keep"] = 1
    result = model(inputs_embeds=embeds, attention_mask=seen(mask), use_cache=True, **options)
    if getattr(result, "past_key_values", None) is None:
        raise UserError(f"{type(model).__name__} returns no cache: a shared prefix needs one")
    return result.past_key_values


def expand(cache: Any, batch: int) -> Any:
    """A cache of one row for `batch` rows. The given one stays as it is; keys and values are views until they are appended to."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if isinstance(keys, Tensor) and isinstance(values, Tensor) and keys.ndim == 4:
            if keys.shape[0] == 1:
                layer.keys = keys.expand(batch, -1, -1, -1)
                layer.values = values.expand(batch, -1, -1, -1)
        elif batch > 1:
            layer.batch_repeat_interleave(batch)
    return new


def repeat(cache: Any, times: int) -> Any:
    """A cache whose every row occurs `times` times in a row (choices, beams); the given one stays as it is."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        layer.batch_repeat_interleave(times)
    return new


def cropped(cache: Any, count: int) -> Any:
    """A cache without its last `count` tokens; the given one stays as it is."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    new.crop(-count)
    return new


def cache_of(model: Any, pairs: Pairs) -> Any:
    """The model's kind of cache, filled with given keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for layer, (keys, values) in enumerate(pairs):
        cache.update(keys, values, layer)
    return cache


def pairs_of(cache: Any) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of every block, or None where the cache is of another kind or has dropped some (recurrent, sliding)."""
    found = []
    length = cache.get_seq_length()
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(keys, Tensor) or not isinstance(values, Tensor) or keys.ndim != 4 or keys.shape[2] != length:
            return None
        found.append((keys, values))
    return found
