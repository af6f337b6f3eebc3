"""What a language model says of itself: its dimensions, its lookup, and which positions tokens have."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pt_core.errors import UserError


@dataclass(frozen=True)
class Sizes:
    """Dimensions of a language model, from its configuration and its position tables.

    Attributes:
        dim: width of the token embeddings.
        depth: number of (decoder) blocks.
        heads, kv_heads, head_dim: attention heads, heads of keys and values, and their width, as the configuration has them.
        context: longest input (of an encoder-decoder: of the encoder), or None where positions are not limited.
        window: tokens that a sliding or chunked attention sees, or None.
        answer: longest output of an encoder-decoder with its start token, or None where positions are not limited.
    """

    dim: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int | None
    window: int | None
    answer: int | None = None


CONTEXTS = ("max_position_embeddings", "max_seq_len", "max_target_positions")
"""What configurations call the longest input."""
WINDOWS = {
    "sliding_attention": ("sliding_window", "window_size", "attention_window_size"),
    "local": ("window_size",),
    "local_attention": ("sliding_window", "local_attention"),
    "chunked_attention": ("attention_chunk_size",),
}
"""Kind of attention -> what configurations call its width."""


def sizes(model: Any) -> Sizes:
    """Read the dimensions of a transformers model."""
    config = model.config.get_text_config(decoder=True)
    dim = int(model.get_input_embeddings().weight.shape[1])
    hidden, heads = int(config.hidden_size), int(_told(config, "num_attention_heads") or 1)
    kv_heads = _told(config, "num_key_value_heads") or heads
    head_dim = _told(config, "head_dim") or _told(config, "d_kv") or hidden // heads
    depth = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    context: int | None
    answer = None
    if config.is_encoder_decoder:
        context, answer = position_limit(model.get_encoder()), position_limit(model.get_decoder())
    else:
        named = [_told(config, name) for name in CONTEXTS]
        told = next((size for size in named if isinstance(size, int) and size > 0), None)
        limits = [limit for limit in (told, position_limit(_text_part(model))) if limit is not None]
        context = min(limits) if limits else None
    return Sizes(dim, int(depth), heads, int(kv_heads), int(head_dim), context, _window(config), answer)


def _told(config: Any, name: str) -> Any:
    """An entry; of one that is given per layer the first that is not 0; None where there is none for all layers."""
    with suppress(
        Exception
    ):  # configurations whose layers differ refuse to tell one number, each with an error of its own
        value = getattr(config, name, None)
        return next((size for size in value if size), None) if isinstance(value, (list, tuple)) else value
    return None


def _window(config: Any) -> int | None:
    """The narrowest of the windows that some layer has."""
    if getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ["sliding_attention"]
    names = {name for kind in kinds for name in WINDOWS.get(kind, ())}
    found = [_told(config, name) for name in names]
    return min((size for size in found if isinstance(size, int) and size > 0), default=None)


def _text_part(model: Any) -> nn.Module:
    """The decoder of text, without towers of images or sounds, which have positions of their own."""
    part = model.get_decoder() if hasattr(model, "get_decoder") else model
    return part if isinstance(part, nn.Module) else model


def position_tables(module: nn.Module) -> Iterator[nn.Embedding]:
    """Learned positions."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding) and TABLE.fullmatch(name.rpartition(".")[2]):
            yield part


TABLE = re.compile(r"wpe|(embed_positions|positions?_embed\w*|pos_embed\w*)")


def position_limit(module: nn.Module) -> int | None:
    """Positions that tokens can have, by the smallest table of positions; None without one. Some keep their first rows for padding."""
    found = [
        len(table.weight) - (getattr(table, "offset", None) or _reserved(table)) for table in position_tables(module)
    ]
    return min(found, default=None)


def _reserved(table: nn.Embedding) -> int:
    return 0 if table.padding_idx is None else int(table.padding_idx) + 1


_first: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def first_position(model: nn.Module) -> int:
    """What a model calls the position of its first token: 0, but for RoBERTa's heirs, whose tables begin with rows that are for padding."""
    known = _first.get(model)
    if known is None:
        # Tables of a class of their own shift positions by themselves.
        own = [_reserved(table) for table in position_tables(_text_part(model)) if type(table) is nn.Embedding]
        known = _first[model] = max(own, default=0)
    return known


def embed(model: Any, ids: Tensor) -> Tensor:
    """(batch, tokens) -> (batch, tokens, dim): the model's own lookup, as it wants its `inputs_embeds`."""
    found: Tensor = model.get_input_embeddings()(ids)
    return found


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward takes an argument of this name."""
    return name in inspect.signature(type(model).forward).parameters


def shown(model: Any, positions: Tensor, keep: int, use_cache: bool) -> dict[str, Any]:
    """Arguments of a call, as far as this model's forward has them. `positions` count from 0, `keep` is 0 for all logits."""
    options: dict[str, Any] = {}
    if accepts(model, "position_ids"):
        options["position_ids"] = positions + first_position(model)
    if keep and accepts(model, "logits_to_keep"):
        options["logits_to_keep"] = keep
    if accepts(model, "use_cache"):
        options["use_cache"] = use_cache
    return options


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


def seen(mask: Tensor) -> Tensor | None:
    """The mask as models take it; cost counting on tensors without values needs none, and models look into masks."""
    return None if valueless(mask) else mask


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
