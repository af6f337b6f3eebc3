"""prompt_attention through flex_attention: two compiled calls, merged by their log-sum-exp in differentiable torch.

For CUDA, and never chosen by the dispatcher until it has been measured there. On CPU flex_attention runs unfused and
forward only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from pt_core.kernels._inputs import Inputs, on_inputs, own_mask


def flex(x: Inputs) -> Tensor:
    """`prompt_attention`, always through flex_attention. It needs at least one prompt and one own token."""
    rows, heads, _, _ = x.q.shape
    settings: dict[str, Any] = {
        "scale": x.scale,
        "enable_gqa": heads != x.k.shape[1],
        "return_aux": AuxRequest(lse=True),
    }
    run = _kernel(x.q.device.type)
    fold = x.prompt_k.shape[0] != rows  # a shared prompt: all rows in one query axis
    near_q = x.q.transpose(0, 1).flatten(1, 2)[None] if fold else x.q
    near, aux = run(near_q, x.prompt_k, x.prompt_v, **settings)
    near_lse = aux.lse[..., None]
    if fold:
        near, near_lse = (t[0].unflatten(1, (rows, -1)).transpose(0, 1) for t in (near, near_lse))
    bias = own_mask(x)
    own, aux = run(x.q, x.k, x.v, score_mod=_score_mod(bias, x.q, x.k), **settings)
    own_lse = aux.lse[..., None]
    if bias is not None:
        seen = bias if bias.dtype == torch.bool else bias != -torch.inf
        blind = ~seen.any(-1, keepdim=True)
        own, own_lse = own.masked_fill(blind, 0.0), own_lse.masked_fill(blind, -torch.inf)
    return torch.lerp(own.to(near_lse.dtype), near.to(near_lse.dtype), torch.sigmoid(near_lse - own_lse)).to(x.q.dtype)


flex_prompt_attention = on_inputs(flex)


@cache
def _kernel(device: str) -> Callable[..., Any]:
    return cast(Callable[..., Any], torch.compile(flex_attention) if device == "cuda" else flex_attention)


def _score_mod(bias: Tensor | None, q: Tensor, k: Tensor) -> Callable[..., Tensor] | None:
    if bias is None:
        return None
    full = bias.expand(*q.shape[:3], k.shape[2])
    if bias.dtype == torch.bool:
        return lambda score, b, h, i, j: torch.where(full[b, h, i, j], score, -torch.inf)
    return lambda score, b, h, i, j: score + full[b, h, i, j]
