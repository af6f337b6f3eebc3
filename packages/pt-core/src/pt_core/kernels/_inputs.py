"""What the implementations of prompt_attention share: one checked, normal form of the arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pt_core.kernels._mode import transforming


class Inputs(NamedTuple):
    """Arguments that agree with each other. `rows` below is the batch size."""

    q: Tensor  # (rows, heads, queries, head_dim)
    k: Tensor  # (rows, kv_heads, tokens, head_dim)
    v: Tensor
    prompt_k: Tensor  # (1 | rows, kv_heads, prompt, head_dim); a bank is already gathered
    prompt_v: Tensor
    mask: (
        Tensor | None
    )  # bool or additive float of q's dtype, four axes, each 1 or that of (rows, heads, queries, tokens)
    causal: bool  # never set where it would change nothing (a single query)
    scale: float


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Casts as autocast does for SDPA; the raw operators below SDPA know nothing of autocast."""
    kind = tensors[0].device.type
    if kind == "meta" or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    index: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Inputs:
    """The arguments of prompt_attention in normal form; ValueError with the shapes where they do not fit."""
    for name, x in (("q", q), ("k", k), ("v", v), ("prompt_k", prompt_k), ("prompt_v", prompt_v)):
        if x.ndim != 4:
            raise ValueError(f"{name} must have 4 axes (batch, heads, length, head_dim), got {_shape(x)}")
    rows, heads, queries, dim = q.shape
    if k.shape != v.shape or k.shape[0] != rows or k.shape[3] != dim:
        raise ValueError(
            f"k and v must both be ({rows}, kv_heads, tokens, {dim}) for q {_shape(q)}, got {_shape(k)} and {_shape(v)}"
        )
    kv_heads, tokens = k.shape[1:3]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"k has {kv_heads} heads, which does not divide the {heads} heads of q: q {_shape(q)}, k {_shape(k)}"
        )
    if prompt_k.shape != prompt_v.shape or prompt_k.shape[1] != kv_heads or prompt_k.shape[3] != dim:
        raise ValueError(
            f"prompt_k and prompt_v must both be (1 | batch | tenants, {kv_heads}, prompt, {dim}) for k {_shape(k)}, "
            f"got {_shape(prompt_k)} and {_shape(prompt_v)}"
        )
    q, k, v, prompt_k, prompt_v = _autocast(q, k, v, prompt_k, prompt_v)
    if len({x.dtype for x in (q, k, v, prompt_k, prompt_v)}) > 1:
        names = ", ".join(str(x.dtype).removeprefix("torch.") for x in (q, k, v, prompt_k, prompt_v))
        raise ValueError(
            f"q, k, v, prompt_k, prompt_v must share one dtype (cast the prompt at insertion), got {names}"
        )
    if index is not None:
        prompt_k, prompt_v = _gather(prompt_k, prompt_v, index, rows)
    elif prompt_k.shape[0] not in (1, rows):
        raise ValueError(
            f"prompt_k has {prompt_k.shape[0]} rows for a batch of {rows}: give 1, {rows}, or a bank with `index`"
        )
    causal = causal and queries > 1
    if mask is not None:
        mask = _four_axes(mask, (rows, heads, queries, tokens), q.dtype)
    return Inputs(q, k, v, prompt_k, prompt_v, mask, causal, dim**-0.5 if scale is None else scale)


def on_inputs(run: Callable[[Inputs], Tensor]) -> Callable[..., Tensor]:
    """An implementation with the arguments of `prompt_attention`."""

    def attention(q: Tensor, k: Tensor, v: Tensor, prompt_k: Tensor, prompt_v: Tensor, **options: Any) -> Tensor:
        plain = {"index": None, "mask": None, "causal": False, "scale": None}
        return run(check(q, k, v, prompt_k, prompt_v, **{**plain, **options}))

    return attention


def _gather(prompt_k: Tensor, prompt_v: Tensor, index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    tenants = prompt_k.shape[0]
    if index.shape != (rows,) or index.dtype != torch.int64:
        raise ValueError(f"index must be int64 of shape ({rows},), got {index.dtype} of shape {_shape(index)}")
    # Only where reading values is cheap: on CUDA it would wait for the device, and index_select checks there.
    if index.device.type == "cpu" and rows and not transforming():
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= tenants:
            raise ValueError(
                f"index holds {low if low < 0 else high}, the rows are 0 to {tenants - 1}: prompt_k {_shape(prompt_k)}"
            )
    if tenants == 1:  # every row uses the only tenant: a shared prompt
        return prompt_k, prompt_v
    return prompt_k.index_select(0, index), prompt_v.index_select(0, index)


def _four_axes(mask: Tensor, target: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    padded = (1,) * (4 - mask.ndim) + tuple(mask.shape)
    if len(padded) != 4 or any(have not in (1, want) for have, want in zip(padded, target, strict=True)):
        raise ValueError(f"mask {_shape(mask)} does not broadcast to (batch, heads, queries, tokens) = {target}")
    mask = mask.reshape(padded)
    if mask.dtype == torch.bool:
        return mask
    if not mask.dtype.is_floating_point:
        raise ValueError(f"mask must be bool (True = attend) or additive float, got {mask.dtype}")
    return mask.to(dtype)


def causal_mask(queries: int, tokens: int, device: torch.device) -> Tensor:
    """Bool (queries, tokens), aligned bottom-right: the last query sees every token."""
    return torch.ones(queries, tokens, dtype=torch.bool, device=device).tril(tokens - queries)


def own_mask(x: Inputs) -> Tensor | None:
    """Mask and causality of the own tokens in one tensor of four axes; None if every query sees every token."""
    if not x.causal:
        return x.mask
    causal = causal_mask(x.q.shape[2], x.k.shape[2], x.q.device)[None, None]
    if x.mask is None:
        return causal
    return x.mask & causal if x.mask.dtype == torch.bool else x.mask.masked_fill(~causal, -torch.inf)
