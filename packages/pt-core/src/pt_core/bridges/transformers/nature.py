"""What a causal language model can do, seen by running a few tokens: whether it takes vectors, whether it is causal, and what it keeps."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from pt_core.bridges.transformers.cache import pairs_of, plain
from pt_core.bridges.transformers.model import accepts, embed, packed_positions, shown, valueless
from pt_core.errors import UserError
from pt_core.fingerprint import whole_float32

Kept = tuple[tuple[int, int, int], ...]
"""Heads, width of a key, and width of a value, of every layer of a cache."""

ALIKE = 2e-5
"""Largest difference of results that are the same, as a share of their size, in float32; of narrow numbers, twice their precision."""


def kept_by(cache: Any) -> Kept | None:
    """What a cache of one token tells of its layers; None where they are not keys and values alone."""
    pairs = pairs_of(cache) if getattr(cache, "is_croppable", False) else None
    return None if pairs is None else tuple((k.shape[1], k.shape[3], v.shape[3]) for k, v in pairs)


@torch.no_grad()
def examine(model: Any, name: str) -> Kept | None:
    """What the model keeps of a token, or None where that is not one key and one value per head and layer.

    Raises:
        UserError: the model takes no vectors, computes something else from them than from their ids, or is not causal.
    """
    if not accepts(model, "inputs_embeds"):
        raise UserError(f"{name} takes token ids only, no vectors: no prompt can stand in front of its texts")
    weight = model.get_input_embeddings().weight
    ids = (torch.tensor([[11, 7930, 15849]], device=weight.device) % len(weight)).long()
    if valueless(weight):
        return _kept_in_the_dark(model, ids[:, :1])
    try:
        with torch.autocast(weight.device.type, enabled=False), whole_float32():
            vectors = embed(model, ids)
            one = _call(model, vectors[:, :1], True)
            whole = _call(model, vectors, False).logits
            _call(model, vectors[:, :2].mean(1, keepdim=True), False)  # a vector of no token
            by_ids = model(input_ids=ids, **({"use_cache": False} if accepts(model, "use_cache") else {})).logits
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name} does not run on vectors ({type(error).__name__}: {reason})") from None
    if not alike(whole, by_ids):
        raise UserError(
            f"{name} computes something else from the vectors of tokens than from their ids: no prompt can stand in front of its texts"
        )
    if not alike(one.logits, whole[:, :1]):
        raise UserError(
            f"{name} is no causal language model: what it predicts behind a token depends on the tokens that follow (of a BERT "
            "style decoder, config.is_decoder must be true)"
        )
    return kept_by(getattr(one, "past_key_values", None))


def _kept_in_the_dark(model: Any, ids: Tensor) -> Kept | None:
    """What a model without values keeps, as far as it runs: a router of experts ends it behind its first attention."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    with suppress(Exception):
        return kept_by(getattr(_call(model, embed(model, ids), True), "past_key_values", None))
    with suppress(Exception):
        model(inputs_embeds=embed(model, ids), past_key_values=cache, **shown(model, torch.zeros_like(ids), 0, True))
    layers: list[Any] = list(cache.layers)
    found = [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers if plain(layer)]
    known = all(type(layer).__name__ in ("DynamicLayer", "DynamicSlidingWindowLayer") for layer in layers)
    return (found[0],) * int(model.config.get_text_config(decoder=True).num_hidden_layers) if known and found else None


def _call(model: Any, vectors: Tensor, use_cache: bool) -> Any:
    mask = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)
    given = {"attention_mask": mask} if accepts(model, "attention_mask") and not vectors.is_meta else {}
    return model(inputs_embeds=vectors.clone(), **given, **shown(model, packed_positions(mask), 0, use_cache))


def alike(have: Tensor, want: Tensor) -> bool:
    """Whether two results of the same computation differ by rounding only."""
    return difference(have, want) <= max(ALIKE, 2 * torch.finfo(want.dtype).eps)


def difference(have: Tensor, want: Tensor) -> float:
    """Largest difference, as a share of the largest value; what is the same for a whole row of scores does not count."""
    have, want = (x.float() - x.float().mean(-1, keepdim=True) for x in (have, want))
    return float((have - want).abs().max() / want.abs().max().clamp(min=1e-12))
