"""The model's own cache: filled by prefix vectors or by given keys and values, handed to a batch, repeated, cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pt_core.bridges.transformers.model import packed_positions, seen, shown
from pt_core.errors import UserError

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (rows, kv_heads, prefix, head_dim) of every block."""


def run_prefix(model: Any, embeds: Tensor, mask: Tensor | None = None) -> Any:
    """The cache behind prefix vectors (rows, prefix, dim); with gradients where `embeds` has them."""
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    options = shown(model, packed_positions(mask), keep=1, use_cache=True)
    result = model(inputs_embeds=embeds.clone(), attention_mask=seen(mask), **options)
    if getattr(result, "past_key_values", None) is None:
        raise UserError(f"{type(model).__name__} returns no cache: a shared prefix needs one")
    return result.past_key_values


def expand(cache: Any, batch: int) -> Any:
    """A cache of one row for `batch` rows. The given one stays as it is; keys and values are views until they are appended to."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        if plain(layer):
            if layer.keys.shape[0] == 1:
                layer.keys = layer.keys.expand(batch, -1, -1, -1)
                layer.values = layer.values.expand(batch, -1, -1, -1)
        elif batch > 1:
            layer.batch_repeat_interleave(batch)
    return new


def plain(layer: Any) -> bool:
    """Whether keys and values (rows, kv_heads, tokens, head_dim) are all that a layer of a cache keeps."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    known = type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and isinstance(
        getattr(layer, "keys", None), Tensor
    )
    return known and bool(layer.keys.ndim == layer.values.ndim == 4)


def repeat(cache: Any, times: int) -> Any:
    """A cache whose every row occurs `times` times in a row (choices, beams); the given one stays as it is."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        layer.batch_repeat_interleave(times)
    return new


def cropped(cache: Any, count: int) -> Any:
    """A cache without its last `count` tokens, which may have to be `recording`; the given one stays as it is."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    new.crop(-count)
    for layer in new.layers:
        if hasattr(layer, "record_past"):
            layer.record_past = False
    return new


def recording(model: Any, cache: Any) -> Any:
    """A cache (None: an empty one) that keeps what leaves a sliding window, so that it can be `cropped` once; the given one stays."""
    from transformers import DynamicCache

    if cache is None:
        new = DynamicCache(config=model.config.get_text_config(decoder=True))
    else:
        new = copy.copy(cache)
        new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        if hasattr(layer, "activate_past_recording"):
            layer.activate_past_recording()
    return new


def cache_of(model: Any, pairs: Pairs) -> Any:
    """The model's kind of cache, filled with given keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for layer, (keys, values) in enumerate(pairs):
        cache.update(keys, values, layer)
    return cache


def pairs_of(cache: Any) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of every block, or None where the cache keeps something else besides, or has dropped some."""
    layers = list(getattr(cache, "layers", ()))
    while layers and not getattr(layers[-1], "is_initialized", True):
        layers.pop()  # blocks that share the keys and values of earlier ones
    if not layers or not all(plain(layer) for layer in layers):
        return None
    length = cache.get_seq_length()
    return None if any(layer.keys.shape[2] != length for layer in layers) else [(x.keys, x.values) for x in layers]
