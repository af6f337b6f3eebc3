"""prompt_attention in two partitions, [prompt] and [own tokens], merged by their log-sum-exp; no prompt is copied.

Forward. With s = scale q k^T, each partition p gives out_p = softmax(s_p) v_p and lse_p = log sum exp s_p. Then
    lse = log(exp lse_prompt + exp lse_own),   out = sum_p exp(lse_p - lse) out_p.
Rows that share a prompt are folded into the query axis, (rows, heads, queries, dim) -> (groups, heads, rows/groups *
queries, dim), so one call covers them all.

Backward. A flash backward recomputes P_p = exp(s_p - lse) and dS_p = P_p * (g v_p^T - rowsum(g * out)). Given the
merged out and lse, these are the rows of the whole softmax restricted to partition p, so the stock operator, called
once per partition, returns the exact dk_p, dv_p and a part of dq; the parts add up. (The argument of ring attention,
Liu et al. 2023, arXiv 2310.01889.) The prompt's gradients come out summed over the folded rows.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from pt_core.kernels._inputs import Inputs, on_inputs, own_mask

Backend = Literal["cpu", "flash", "efficient"]
_aten = torch.ops.aten
_NO_SECOND = (
    "the split kernel of prompt_attention has no second derivative: run the forward pass inside "
    "`with pt_core.kernels.reference_kernels():`"
)


def split(x: Inputs) -> Tensor:
    """`prompt_attention`, always in two partitions. ValueError where `backend_for` finds no operator."""
    backend = backend_for(x)
    if backend is None:
        raise ValueError(
            f"no split kernel for q {tuple(x.q.shape)}, {x.q.dtype}, {x.q.device.type}: use prompt_attention"
        )
    repeat = x.q.shape[1] // x.k.shape[1]
    keys = (x.k, x.v, x.prompt_k, x.prompt_v)
    if repeat > 1:  # autograd adds the gradients of the repeated heads
        keys = tuple(t.repeat_interleave(repeat, dim=1) for t in keys)  # type: ignore[assignment]
    square = x.q.shape[2] == x.k.shape[2]
    flagged = (
        x.causal and x.mask is None and square
    )  # the operators' own causal flag is aligned top-left: the same only if square
    own = None if flagged else own_mask(x)
    if own is not None and own.dtype == torch.bool:  # the operators take additive masks of q's dtype only
        own = torch.zeros(own.shape, dtype=x.q.dtype, device=own.device).masked_fill_(~own, -torch.inf)
    out: Tensor = _Split.apply(x.q, *keys, own, flagged, x.scale, backend)
    return out


split_attention = on_inputs(split)


def backend_for(x: Inputs) -> Backend | None:
    """The operator that can run both partitions with a known log-sum-exp, or None."""
    q, mask = x.q, x.mask
    if 0 in (*q.shape, x.k.shape[2], x.prompt_k.shape[2]):  # the CPU operator dies on empty keys
        return None
    if mask is not None and mask.requires_grad:  # a learned bias: only the reference gives its gradient
        return None
    if q.device.type == "cpu":
        return "cpu" if q.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16) else None
    if q.device.type != "cuda" or q.shape[3] % 8 or any(t.stride(3) != 1 for t in x[:5]):
        return None
    masked = mask is not None or (x.causal and q.shape[2] != x.k.shape[2])
    if q.dtype in (torch.bfloat16, torch.float16):
        flash = not masked and q.shape[3] <= 256 and torch.cuda.get_device_capability(q.device) >= (8, 0)
        return "flash" if flash else "efficient"
    return "efficient" if q.dtype == torch.float32 else None


class _Split(Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prompt_k: Tensor,
        prompt_v: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
        backend: Backend,
    ) -> Tensor:
        groups = _groups(q, prompt_k)
        near, near_lse, near_rng = _attend(
            backend,
            _fold(q, groups),
            prompt_k.expand(groups, -1, -1, -1),
            prompt_v.expand(groups, -1, -1, -1),
            None,
            False,
            scale,
        )
        near, near_lse = _unfold(near, q.shape[0]), _unfold(near_lse[..., None], q.shape[0])
        own, own_lse, own_rng = _attend(backend, q, k, v, mask, causal, scale)
        own_lse = own_lse[..., None]
        if mask is not None:
            # Where no own token is visible the operators report 0 (CPU) or leave it open: it is minus infinity.
            blind = mask.amax(-1, keepdim=True) == -torch.inf
            own_lse = own_lse.masked_fill(blind, -torch.inf)
            own = own.masked_fill(blind, 0.0) if backend != "cpu" else own
        wide = near_lse.dtype  # float32 at least
        out = own.to(wide).lerp_(near.to(wide), torch.sigmoid(near_lse - own_lse)).to(q.dtype)
        if any(ctx.needs_input_grad):
            lse = torch.logaddexp(near_lse, own_lse).squeeze(-1)
            ctx.save_for_backward(q, k, v, prompt_k, prompt_v, mask, out, lse, *near_rng, *own_rng)
            ctx.settings = (groups, causal, scale, backend)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        q, k, v, prompt_k, prompt_v, mask, out, lse, *rng = ctx.saved_tensors
        groups, causal, scale, backend = ctx.settings
        near_rng, own_rng = rng[: len(rng) // 2], rng[len(rng) // 2 :]
        need_q, need_k, need_v, need_pk, need_pv = ctx.needs_input_grad[:5]
        dq = dk = dv = dpk = dpv = None
        with torch.no_grad():
            if need_q or need_k or need_v:
                dq, dk, dv = _attend_backward(backend, grad, q, k, v, mask, out, lse, own_rng, causal, scale)
            if need_q or need_pk or need_pv:
                folded, dpk, dpv = _attend_backward(
                    backend,
                    _fold(grad, groups),
                    _fold(q, groups),
                    prompt_k.expand(groups, -1, -1, -1),
                    prompt_v.expand(groups, -1, -1, -1),
                    None,
                    _fold(out, groups),
                    _fold(lse[..., None], groups).squeeze(-1),
                    near_rng,
                    False,
                    scale,
                )
                dpk, dpv = (d.sum(0, keepdim=True) if prompt_k.shape[0] < groups else d for d in (dpk, dpv))
                near_dq = _unfold(folded, q.shape[0])
                dq = near_dq if dq is None else dq + near_dq
        result = (dq, dk, dv, dpk, dpv)
        if (
            torch.is_grad_enabled()
        ):  # create_graph=True: these gradients carry a graph that refuses to be differentiated
            anchors = (grad, q, k, v, prompt_k, prompt_v)
            return (*(None if d is None else _FirstOrder.apply(d, *anchors) for d in result), None, None, None, None)
        return (*result, None, None, None, None)


class _FirstOrder(Function):
    """Identity on its first argument; differentiating it towards any argument is an error, never a silent zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *anchors: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(_NO_SECOND)


def _groups(q: Tensor, prompt_k: Tensor) -> int:
    """Into how many groups of rows the prompt partition is cut: 1 = all folded together; a divisor of the rows.

    The operators' backward passes run in parallel over (group, head, block of keys) only, so one group would leave a
    wide machine idle.
    """
    rows, heads = q.shape[:2]
    if prompt_k.shape[0] == rows:
        return rows
    if q.device.type == "cuda":
        workers = torch.cuda.get_device_properties(q.device).multi_processor_count
        parallel = heads * math.ceil(prompt_k.shape[2] / 128)
    else:
        workers, parallel = torch.get_num_threads(), heads
    return next(g for g in range(1, rows + 1) if rows % g == 0 and (g * parallel >= workers or g == rows))


def _fold(x: Tensor, groups: int) -> Tensor:
    """(rows, heads, queries, d) -> (groups, heads, rows/groups * queries, d); a view behind a fused projection."""
    return x if groups == x.shape[0] else x.reshape(groups, -1, *x.shape[1:]).transpose(1, 2).flatten(2, 3)


def _unfold(x: Tensor, rows: int) -> Tensor:
    groups, heads, _, dim = x.shape
    return x if groups == rows else x.reshape(groups, heads, rows // groups, -1, dim).transpose(1, 2).flatten(0, 1)


def _attend(
    backend: Backend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One partition: out (rows, heads, queries, dim), its log-sum-exp without dim, and what its backward wants."""
    if backend == "cpu":
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
        return out, lse, []
    if backend == "flash":
        out, lse, _, _, _, _, seed, offset, _ = _aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, causal, False, scale=scale
        )
        return out, lse[..., : q.shape[2]], [seed, offset]
    bias = _bias(mask, q, k)
    out, lse, seed, offset = _aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, causal, scale=scale
    )
    return out, lse[..., : q.shape[2]], [seed, offset]  # this operator pads the log-sum-exp to a multiple of 32 queries


def _attend_backward(
    backend: Backend,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    out: Tensor,
    lse: Tensor,
    rng: list[Tensor],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one partition's q, k, v, given the merged `out` and `lse`."""
    if backend == "cpu":
        dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, attn_mask=mask, scale=scale
        )
    elif backend == "flash":
        queries, keys = q.shape[2], k.shape[2]
        dq, dk, dv = _aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse.contiguous(), None, None, queries, keys, 0.0, causal, *rng, scale=scale
        )
    else:
        # Padded queries get an infinite log-sum-exp, hence no weight, as the operator itself writes them.
        padded = torch.nn.functional.pad(lse, (0, -lse.shape[2] % 32), value=math.inf)
        dq, dk, dv, _ = _aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, _bias(mask, q, k), out, padded, *rng, 0.0, [True, True, True, False], causal, scale=scale
        )
    return dq, dk, dv


def _bias(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The mask as the memory-efficient operator wants it: expanded, its last axis in memory a multiple of 16 long."""
    if mask is None:
        return None
    tokens = k.shape[2]
    padded = torch.nn.functional.pad(mask.expand(*mask.shape[:3], tokens).contiguous(), (0, -tokens % 16))
    return padded[..., :tokens].expand(q.shape[0], q.shape[1], q.shape[2], tokens)
