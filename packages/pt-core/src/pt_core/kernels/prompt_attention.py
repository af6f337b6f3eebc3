"""Attention of own tokens over [prompt | own tokens], where the prompt is shared, one per row, or drawn from a bank."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pt_core.kernels import _split
from pt_core.kernels._inputs import Inputs, check, own_mask
from pt_core.kernels._mode import fast_paths_enabled, transforming

_WORTH_IT = 2**19


def prompt_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    *,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    x = check(q, k, v, prompt_k, prompt_v, index, mask, causal, scale)
    return _split.split(x) if split_pays(x) else concat(x)


def concat_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    *,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """As `prompt_attention`, always as SDPA over concatenated keys and values: the reference."""
    return concat(check(q, k, v, prompt_k, prompt_v, index, mask, causal, scale))


def concat(x: Inputs) -> Tensor:
    """`concat_attention` on checked inputs."""
    rows, heads, queries, _ = x.q.shape
    grouped = heads != x.k.shape[1]
    prompt, tokens = x.prompt_k.shape[2], x.k.shape[2]
    if prompt == 0 and x.causal and x.mask is None and queries == tokens:
        return F.scaled_dot_product_attention(x.q, x.k, x.v, is_causal=True, scale=x.scale, enable_gqa=grouped)
    mask = own_mask(x)
    if mask is not None:  # every query sees every prompt
        mask = mask.expand(-1, -1, -1, tokens)
        seen = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
        mask = torch.cat([seen(*mask.shape[:3], prompt), mask], dim=3)
    k = torch.cat([x.prompt_k.expand(rows, -1, -1, -1), x.k], dim=2)
    v = torch.cat([x.prompt_v.expand(rows, -1, -1, -1), x.v], dim=2)
    return F.scaled_dot_product_attention(x.q, k, v, attn_mask=mask, scale=x.scale, enable_gqa=grouped)


def split_pays(x: Inputs) -> bool:
    """Whether two partitions are expected to be faster than one concatenation: the crossover of the module's docstring."""
    if not fast_paths_enabled() or transforming():
        return False
    rows, heads, queries, dim = x.q.shape
    prompt, tokens = x.prompt_k.shape[2], x.k.shape[2]
    if x.q.device.type != "cpu" or x.prompt_k.shape[0] != 1 or heads != x.k.shape[1]:
        return False
    copied = prompt + tokens
    return copied >= 2 * queries and rows * heads * copied * dim >= _WORTH_IT and _split.backend_for(x) is not None
