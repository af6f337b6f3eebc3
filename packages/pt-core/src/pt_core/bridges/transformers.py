"""Causal language models of transformers, driven through what all of them share; no model family is named here.

- *Embedding access*: a model's own lookup (`embed`), so that scaling inside it stays inside it.
- *Shared prefix*: virtual tokens in front of all rows do not depend on what follows. `run_prefix` runs them once with batch 1 through the
  model's own cache object; `expand` hands that cache to a batch without copying. Gradients of all rows add up in the prefix.
- *Packed positions*: own tokens continue after the prefix and skip padding wherever it lies, so a ragged batch equals its rows one by one.
- *Slots*: `slots` gives every block its own few prompt vectors in front of the sequence and drops what the block made of them.
- *Checkpointing* per block, with the prefix keys and values as explicit arguments, in train and eval mode.
- *Batched generation* behind a cache, with everything the model's own `generate` offers.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pt_core.errors import UserError

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (rows, kv_heads, prefix, head_dim) of every block."""
SlotFn = Callable[[int, Tensor], Tensor]
"""fn(block, hidden (batch, tokens, dim)) -> prompt vectors (batch, slots, dim) for that block."""


@dataclass(frozen=True)
class Sizes:
    """Dimensions of a language model, from its configuration.

    Attributes:
        dim: width of the token embeddings.
        depth: number of (decoder) blocks.
        heads, kv_heads, head_dim: attention heads, heads of keys and values, and their width.
        context: longest input, or None where positions are not limited.
        window: sliding attention window, or None.
    """

    dim: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int | None
    window: int | None


def sizes(model: Any) -> Sizes:
    """Read the dimensions of a transformers model."""
    config = model.config.get_text_config(decoder=True)
    dim = int(model.get_input_embeddings().weight.shape[1])
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or hidden // heads
    windows = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    window = getattr(config, "sliding_window", None) if "sliding_attention" in windows else None
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    context: int | None = getattr(config, "max_position_embeddings", None)
    depth = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    return Sizes(dim, int(depth), heads, int(kv_heads), int(head_dim), context, window)


def embed(model: Any, ids: Tensor) -> Tensor:
    """(batch, tokens) -> (batch, tokens, dim): the model's own lookup, as it wants its `inputs_embeds`."""
    found: Tensor = model.get_input_embeddings()(ids)
    return found


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward takes an argument of this name."""
    return name in inspect.signature(type(model).forward).parameters


def packed_positions(mask: Tensor, start: Tensor | int = 0) -> Tensor:
    """(batch, tokens) positions that count unmasked tokens only, from `start` (per row or for all); padding gets `start`."""
    counted = (mask.long().cumsum(1) - 1).clamp(min=0)
    return counted + (start[:, None] if isinstance(start, Tensor) else start)


def vocabulary_digest(tokenizer: Any) -> str:
    """Identity of a tokenizer: its vocabulary and how it splits a probe."""
    probe = tokenizer("A probe, with 12 words & signs: naïve\n", add_special_tokens=False)["input_ids"]
    text = json.dumps([sorted(tokenizer.get_vocab().items()), probe])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def valueless(tensor: Tensor) -> bool:
    """Whether costs are being counted on a tensor that has a shape only."""
    return tensor.is_meta or isinstance(tensor, torch._subclasses.FakeTensor)


def _seen(mask: Tensor) -> Tensor | None:
    """The mask as models take it; cost counting on tensors without values needs none, and models look into masks."""
    return None if valueless(mask) else mask


# ---- the model's own cache ---------------------------------------------------------------------------------------------------


def run_prefix(model: Any, embeds: Tensor, mask: Tensor | None = None) -> Any:
    """The cache behind prefix vectors (rows, prefix, dim); with gradients where `embeds` has them."""
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    options: dict[str, Any] = {"position_ids": packed_positions(mask)} if accepts(model, "position_ids") else {}
    if accepts(model, "logits_to_keep"):
        options["logits_to_keep"] = 1
    result = model(inputs_embeds=embeds, attention_mask=_seen(mask), use_cache=True, **options)
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


# ---- one forward pass --------------------------------------------------------------------------------------------------------


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
) -> Outputs:
    """Run own tokens behind a prefix.

    Args:
        embeds: (batch, tokens, dim) from `embed`.
        mask: (batch, tokens), 1 for real tokens; padding may lie left or right.
        prefix: cache in front of the tokens (of 1 row: shared by all; of batch rows: one each). It is not changed.
        prefix_mask: (batch, prefix) where prefixes of several lengths are padded on the left; None: all are real.
        slots: (number, fn): every block gets fn(block, hidden) in front of its sequence, see `slots`.
        keep: positions whose logits are needed, counted from the end; 0 for all.
        hidden: also return hidden states.
        use_cache: also return the cache.
        attentions: also return attention weights (the model has to run its eager attention, see `eager`).
        recompute: checkpoint every block: activations are computed again in the backward pass.
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
    options: dict[str, Any] = {}
    if accepts(model, "position_ids"):
        options["position_ids"] = packed_positions(own, before.long().sum(1))
    if keep and accepts(model, "logits_to_keep"):
        options["logits_to_keep"] = keep
    if hidden:
        options["output_hidden_states"] = True
    if attentions:
        options["output_attentions"] = True
    if prefix is not None:
        options["past_key_values"] = prefix
    with _slots(model, slots), _recomputed(model, recompute and torch.is_grad_enabled()):
        result = model(
            inputs_embeds=embeds, attention_mask=_seen(whole), use_cache=use_cache or prefix is not None, **options
        )
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


def check_length(prefix: int, tokens: int, limit: int | None, what: str = "prompt") -> None:
    """Refuse input that does not fit the context window; nothing is cut silently.

    Raises:
        UserError: names the lengths, the limit, and the longest prompt that fits.
    """
    if limit is not None and prefix + tokens > limit:
        raise UserError(
            f"{what} of {prefix} tokens and text of {tokens} tokens exceed the context window of {limit}: "
            f"with this text at most {max(0, limit - tokens)} fit in front; shorten the {what} or the text"
        )


# ---- blocks ------------------------------------------------------------------------------------------------------------------


def blocks(model: Any) -> nn.ModuleList:
    """The decoder blocks, in order.

    Raises:
        UserError: the model does not keep its blocks in one list.
    """
    depth = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(
        f"{type(model).__name__} has no list of {depth} blocks to hook into; use a decoder-only model that keeps its blocks in a "
        "ModuleList (GPT-2, Llama, Qwen and Mistral style models do)"
    )


@contextmanager
def _slots(model: Any, chosen: tuple[int, SlotFn] | None) -> Iterator[None]:
    """In front of every block the first `number` positions are replaced by fn(block, the rest)."""
    if chosen is None:
        yield
        return
    number, fn = chosen

    def replace(layer: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            own = states[:, number:]
            new = torch.cat([fn(layer, own).to(own.dtype).expand(own.shape[0], -1, -1), own], 1)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        return hook

    handles = [
        block.register_forward_pre_hook(replace(layer), with_kwargs=True) for layer, block in enumerate(blocks(model))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _recomputed(model: Any, on: bool) -> Iterator[None]:
    """Run every block under checkpointing. Prefix keys and values are arguments of the recomputed function; each run gets a cache of its
    own, so that nothing is appended twice."""
    if not on:
        yield
        return
    plain = [(block, block.forward) for block in blocks(model)]

    def wrap(layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def outer(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            cache = next((value for value in given if hasattr(value, "get_seq_length")), None)

            def inner(hidden: Tensor, keys: Tensor | None, values: Tensor | None) -> Any:
                own = None if cache is None else _only(cache, layer, keys, values)
                again = [own if value is cache else value for value in args]
                return forward(hidden, *again, **{n: own if v is cache else v for n, v in kwargs.items()})

            return checkpoint(inner, hidden, *_pair(cache, layer), use_reentrant=False)

        return outer

    for layer, (block, forward) in enumerate(plain):
        block.forward = wrap(layer, forward)
    try:
        yield
    finally:
        for block, _ in plain:
            del block.__dict__["forward"]


def _pair(cache: Any, layer: int) -> tuple[Tensor | None, Tensor | None]:
    if cache is None or layer >= len(cache.layers):
        return None, None
    return getattr(cache.layers[layer], "keys", None), getattr(cache.layers[layer], "values", None)


def _only(cache: Any, layer: int, keys: Tensor | None, values: Tensor | None) -> Any:
    """The cache with one block's keys and values given, and its own layer objects."""
    new = copy.copy(cache)
    new.layers = list(cache.layers)
    if layer < len(new.layers):
        new.layers[layer] = copy.copy(new.layers[layer])
        if keys is not None:
            new.layers[layer].keys, new.layers[layer].values = keys, values
    return new


# ---- continuing --------------------------------------------------------------------------------------------------------------


def step(model: Any, ids: Tensor, cache: Any, mask: Tensor, keep: int = 1) -> tuple[Tensor, Any, Tensor]:
    """Append tokens (batch, tokens) to a cache: (logits of the last `keep`, the cache, the longer mask). `cache` is used up."""
    whole = torch.cat([mask, mask.new_ones(ids.shape)], 1)
    options: dict[str, Any] = {}
    if accepts(model, "position_ids"):
        start = mask.long().sum(1)
        options["position_ids"] = start[:, None] + torch.arange(ids.shape[1], device=ids.device)
    if accepts(model, "logits_to_keep"):
        options["logits_to_keep"] = keep
    result = model(input_ids=ids, attention_mask=whole, past_key_values=cache, use_cache=True, **options)
    return result.logits[:, -keep:], result.past_key_values, whole


def generate(
    model: Any, ids: Tensor, cache: Any, mask: Tensor, max_new_tokens: int, options: Mapping[str, Any] | None = None
) -> Tensor:
    """Continue rows whose tokens are all in the cache, by the model's own `generate`.

    Args:
        ids: (batch, tokens): the own tokens at the end of the cache; the last column is computed once more, the rest is not.
        cache: of batch rows, holding prefix, slots and `ids`. It stays as it is.
        mask: (batch, everything in the cache).
        options: of `GenerationConfig`, such as num_beams, do_sample, num_return_sequences, eos_token_id.

    Returns:
        (batch * num_return_sequences, at most max_new_tokens) new tokens; shorter rows end in `pad_token_id`.
    """
    options = dict(options or {})
    copies = int(options.get("num_beams", 1)) if int(options.get("num_beams", 1)) > 1 else 1
    copies = max(copies, int(options.get("num_return_sequences", 1)))
    filler = ids.new_zeros(ids.shape[0], mask.shape[1] - ids.shape[1])
    options.setdefault("pad_token_id", 0)
    result: Tensor = model.generate(
        torch.cat([filler, ids], 1),
        attention_mask=mask,
        past_key_values=repeat(cropped(cache, 1), copies),
        max_new_tokens=max_new_tokens,
        **options,
    )
    return result[:, mask.shape[1] :]
