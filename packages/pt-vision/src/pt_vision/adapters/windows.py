"""Swin's windows: own tokens cut into them and put back, and attention in them with prompts that every window gets a copy of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pt_core.backbone import KeyValue, Layout
from pt_core.kernels import prompt_attention
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor
from torch.nn import functional as F

from pt_vision.adapters.key_values import split_heads
from pt_vision.adapters.sequence import Prompt, gather_rows


class Windows(NamedTuple):
    """Own tokens cut into windows of `area` tokens."""

    tokens: Tensor  # (batch * per_image, area, dim), image by image
    mask: Tensor | None  # shift mask (per_image, area, area)
    per_image: int  # number of windows of an image
    padded: tuple[int, int]  # grid after padding


def as_image(hidden: Tensor, layout: Layout) -> Tensor:
    """(batch, rows * columns, dim) -> (batch, row, column, dim)."""
    assert layout.grid is not None
    return hidden.reshape(hidden.shape[0], *layout.grid, hidden.shape[-1])


def partition(block: Any, normed: Tensor, layout: Layout) -> Windows:
    """timm's cyclic shift, padding and windows of the own tokens (batch, rows * columns, dim)."""
    x = as_image(normed, layout)
    if any(block.shift_size):
        x = torch.roll(x, shifts=(-block.shift_size[0], -block.shift_size[1]), dims=(1, 2))
    (rows, columns), (high, wide) = x.shape[1:3], block.window_size
    x = F.pad(x, (0, 0, 0, -columns % wide, 0, -rows % high))
    mask = block.get_attn_mask(x) if getattr(block, "dynamic_mask", False) else block.attn_mask
    padded = (int(x.shape[1]), int(x.shape[2]))
    tokens = window_partition(x, block.window_size).flatten(1, 2)
    return Windows(tokens, mask, padded[0] // high * (padded[1] // wide), padded)


def reverse(block: Any, tokens: Tensor, windows: Windows, layout: Layout) -> Tensor:
    """The inverse of `partition`: (batch * per_image, area, dim) -> (batch, rows * columns, dim)."""
    assert layout.grid is not None
    rows, columns = layout.grid
    squares = tokens.reshape(-1, *block.window_size, tokens.shape[-1])
    x: Tensor = window_reverse(squares, block.window_size, *windows.padded)[:, :rows, :columns]
    if any(block.shift_size):
        x = torch.roll(x, shifts=tuple(block.shift_size), dims=(1, 2))
    return x.flatten(1, 2)


def position_bias(block: Any, windows: Windows, batch: int, dtype: torch.dtype) -> Tensor:
    """Relative position bias plus shift mask: (1, heads, area, area) or (batch * per_image, heads, area, area)."""
    bias: Tensor = block.attn._get_rel_pos_bias().to(dtype)
    if windows.mask is None:
        return bias
    per_window = bias + windows.mask.to(dtype)[:, None]
    return per_window.expand(batch, *per_window.shape).flatten(0, 1)


def attend(block: Any, normed: Tensor, layout: Layout, extra: KeyValue | None) -> Tensor:
    """Windowed attention of kept prompts and own tokens over [extra keys | kept prompts | window]."""
    attn, batch, kept = block.attn, normed.shape[0], layout.count("prompt")
    windows = partition(block, normed[:, kept:], layout)
    q, k, v = split_heads(attn.qkv(windows.tokens), 3, attn.num_heads)
    mask = position_bias(block, windows, batch, q.dtype)
    if kept:
        prompts = split_heads(attn.qkv(normed[:, :kept]), 3, attn.num_heads)
        copies = (x.repeat_interleave(windows.per_image, 0) for x in prompts)
        q, k, v = (torch.cat([copy, own], 2) for copy, own in zip(copies, (q, k, v), strict=True))
        mask = F.pad(mask, (kept, 0, kept, 0))
    if extra is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attn.scale)
    else:
        per_row = extra.index is None and extra.k.shape[0] > 1
        pk, pv = (x.repeat_interleave(windows.per_image, 0) if per_row else x for x in (extra.k.to(k), extra.v.to(v)))
        index = None if extra.index is None else extra.index.repeat_interleave(windows.per_image)
        out = prompt_attention(q, k, v, pk, pv, index=index, mask=mask, scale=attn.scale)
    out = out.transpose(1, 2).flatten(2)
    own = reverse(block, out[:, kept:], windows, layout)
    if kept:
        own = torch.cat([window_mean(out[:, :kept], windows), own], 1)
    attended: Tensor = attn.proj_drop(attn.proj(own))
    return attended


def attend_reference(
    block: Any, normed: Tensor, layout: Layout, prompts: Sequence[Prompt], extra: KeyValue | None
) -> Tensor:
    """As `attend`, with all prompts concatenated as tokens in every window, in the published order of operations."""
    attn, batch, kept = block.attn, normed.shape[0], layout.count("prompt")
    windows = partition(block, normed[:, kept:], layout)
    dropped = [block.norm1(prompt.per_row(batch)) for prompt in prompts]
    copies = [x.repeat_interleave(windows.per_image, 0) for x in (*dropped, normed[:, :kept])]
    sequence = torch.cat([*copies, windows.tokens], 1)
    lost = sum(x.shape[1] for x in dropped)
    q, k, v = split_heads(attn.qkv(sequence), 3, attn.num_heads)
    mask = F.pad(position_bias(block, windows, batch, q.dtype), (lost + kept, 0, lost + kept, 0))
    if extra is not None:
        pk, pv = (
            gather_rows(x, extra.index, batch).repeat_interleave(windows.per_image, 0) for x in (extra.k, extra.v)
        )
        k, v = torch.cat([pk.to(k), k], 2), torch.cat([pv.to(v), v], 2)
        mask = F.pad(mask, (pk.shape[2], 0))
    weights = attn.attn_drop(((q * attn.scale) @ k.transpose(-2, -1) + mask).softmax(-1))
    out = attn.proj_drop(attn.proj((weights @ v).transpose(1, 2).flatten(2)))[:, lost:]
    own = reverse(block, out[:, kept:], windows, layout)
    if not kept:
        return own
    return torch.cat([window_mean(out[:, :kept], windows), own], 1)


def window_mean(copies: Tensor, windows: Windows) -> Tensor:
    """(batch * per_image, prompt, dim) -> (batch, prompt, dim): the mean over the windows of each image."""
    return copies.reshape(-1, windows.per_image, *copies.shape[1:]).mean(1)
