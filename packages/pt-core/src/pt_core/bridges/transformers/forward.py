"""One forward pass behind a prefix, and one more step behind a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pt_core.bridges.transformers.cache import expand, recording
from pt_core.bridges.transformers.draws import placed
from pt_core.bridges.transformers.hooks import SlotFn, recomputed, slotted
from pt_core.bridges.transformers.model import packed_positions, seen, shown


@dataclass(frozen=True)
class Outputs:
    """What `run` returns.

    Attributes:
        logits: (batch, keep, vocabulary) of the last `keep` positions.
        hidden: (batch, tokens, dim) after the final norm, where asked for.
        cache: prefix, slots and own tokens, where asked for.
        mask: (batch, prefix + slots + tokens), 1 where a token is real: what a next step continues.
        attentions: per block (batch, heads, slots + tokens, prefix + slots + tokens), where asked for.
    """

    logits: Tensor
    hidden: Tensor | None
    cache: Any
    mask: Tensor
    attentions: Sequence[Tensor] | None = None


def run(
    model: Any,
    embeds: Tensor,
    mask: Tensor,
    *,
    prefix: Any = None,
    prefix_mask: Tensor | None = None,
    slots: tuple[int, SlotFn] | None = None,
    keep: int = 0,
    hidden: bool = False,
    use_cache: bool = False,
    attentions: bool = False,
    recompute: bool = False,
    record: bool = False,
) -> Outputs:
    """Run own tokens behind a prefix.

    Args:
        embeds: (batch, tokens, dim) from `embed`.
        mask: (batch, tokens), 1 for real tokens; padding may lie left or right.
        prefix: cache in front of the tokens (of 1 row: shared by all; of batch rows: one each). It is not changed.
        prefix_mask: (batch, prefix) where prefixes of several lengths are padded on the left; None: all are real.
        slots: (number, fn): every block gets fn(block, hidden) in front of its sequence, see `hooks.slotted`.
        keep: positions whose logits are needed, counted from the end; 0 for all.
        hidden: also return hidden states.
        use_cache: also return the cache.
        attentions: also return attention weights (the model has to run its eager attention, see `eager`).
        recompute: checkpoint every block: activations are computed again in the backward pass.
        record: the returned cache can be `cropped`, whatever its layers would have dropped.
    """
    batch, tokens, _ = embeds.shape
    device = embeds.device
    past = 0
    if prefix is not None:
        prefix = expand(prefix, batch)
        past = prefix.get_seq_length()
    before: Tensor = torch.ones(batch, past, dtype=mask.dtype, device=device) if prefix_mask is None else prefix_mask
    own = mask
    if slots is not None:
        embeds = torch.cat([embeds.new_zeros(batch, slots[0], embeds.shape[2]), embeds], 1)
        own = torch.cat([mask.new_ones(batch, slots[0]), mask], 1)
    whole = torch.cat([before.to(mask.dtype), own], 1)
    positions = packed_positions(own, before.long().sum(1))
    if record:
        prefix = recording(model, prefix)
    options = shown(model, positions, keep, use_cache or prefix is not None)
    if hidden:
        options["output_hidden_states"] = True
    if attentions:
        options["output_attentions"] = True
    if prefix is not None:
        options["past_key_values"] = prefix
    with placed(positions), slotted(model, slots), recomputed(model, recompute and torch.is_grad_enabled()):
        # Some models (CTRL, GIT) scale or shift the vectors they are given in place.
        result = model(inputs_embeds=embeds.clone(), attention_mask=seen(whole), **options)
    logits = result.logits[:, -keep:] if keep else result.logits[:, -tokens:]
    states = result.hidden_states[-1][:, -tokens:] if hidden else None
    weights = getattr(result, "attentions", None) if attentions else None
    return Outputs(logits, states, getattr(result, "past_key_values", None), whole, weights)


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Inside this block the model runs the attention implementation that can return its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def step(model: Any, ids: Tensor, cache: Any, mask: Tensor, keep: int = 1) -> tuple[Tensor, Any, Tensor]:
    """Append tokens (batch, tokens) to a cache: (logits of the last `keep`, the cache, the longer mask). `cache` is used up."""
    whole = torch.cat([mask, mask.new_ones(ids.shape)], 1)
    positions = mask.long().sum(1)[:, None] + torch.arange(ids.shape[1], device=ids.device)
    options = shown(model, positions, keep, use_cache=True)
    with placed(positions):
        result = model(input_ids=ids, attention_mask=whole, past_key_values=cache, **options)
    return result.logits[:, -keep:], result.past_key_values, whole
