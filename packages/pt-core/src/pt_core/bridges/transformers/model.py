"""What a language model says of itself: its dimensions, its lookup, and which positions tokens have."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pt_core.errors import UserError


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
