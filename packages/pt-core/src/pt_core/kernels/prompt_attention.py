"""Attention of own tokens over [prompt | own tokens], where the prompt is shared, one per row, or drawn from a bank.

Three implementations with one signature:
- `concat_attention`, below: SDPA over concatenated keys and values. The reference, and what torch.compile,
  torch.export and torch.func see. A shared prompt is copied to every row.
- `split_attention`, _split.py: two partitions merged by their log-sum-exp, with an exact backward. Copies nothing.
- `flex_prompt_attention`, _flex.py: the same through flex_attention, for CUDA.

Which one is faster (benchmarks/prompt_attention.py, all cells in benchmarks/results/prompt_attention.json: float32, AMD
EPYC with AVX-512, 1 thread, torch 2.14; below, time of concatenation / time of the split, forward and backward pass). The
split saves writing (prompt + tokens) keys and values per row and their gradients, and pays for a second call, short loops
over few keys, and a merge that reads and writes every query's output again. So it wins where what would be copied
outweighs the queries:
- prompts clearly longer than the own tokens, over many rows: CLIP text behind a shared context, 100 rows of 10 tokens: 10
  prompts 0.82, 17 prompts 1.26, 64 prompts 2.15; a tiny ViT, 64 rows of 20 tokens: 50 prompts 1.18, 200 prompts 1.78;
- one new token against cached keys, 16 rows: 50 prompts 1.8, 200 prompts 3.4;
- about even at prompt = tokens: ViT-S/16, 197 tokens, 16 rows: 10 prompts 0.83, 50 prompts 0.94, 100 prompts 0.96, 200
  prompts 1.05; causal, 128 tokens, 16 rows: 50 prompts 0.97, 100 prompts 1.02, 200 prompts 1.09;
- never with a prompt per row or a bank (nothing is shared: 0.89 to 0.98), nor with grouped-query heads (SDPA reads those
  without copies: 0.80 to 0.89).
Hence `split_pays`: CPU, shared prompt, no grouped heads, prompt + tokens > 2 * queries, and at least 2^19 key elements to
copy. On CUDA no crossover has been measured yet, so the dispatcher concatenates there. The rule goes by time; where
memory is what is scarce, `split_attention` may be called as it is: it keeps no copies for the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pt_core.kernels import _split
from pt_core.kernels._inputs import Inputs, check, on_inputs, own_mask
from pt_core.kernels._mode import fast_paths_enabled, transforming

_WORTH_IT = 2**19  # elements of the keys that concatenation would write


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
    """softmax(scale q [prompt_k | k]^T + mask) [prompt_v | v], by the fastest implementation known for the inputs.

    Every query sees every prompt; `mask` and `causal` concern the own tokens only. A query that sees no own token
    attends to the prompt alone. Prompts of length 0 leave plain attention (where a query that sees nothing gets
    zeros, as in SDPA).

    Args:
        q: (batch, heads, queries, head_dim).
        k, v: (batch, kv_heads, tokens, head_dim); kv_heads divides heads, query head h reads key head h // (heads /
            kv_heads).
        prompt_k, prompt_v: (1, kv_heads, prompt, head_dim) shared by all rows; (batch, ...) one per row, as per-row
            prompt dropout gives; (tenants, ...) a bank, with `index`. All five tensors share one dtype, unless
            autocast is on and casts them.
        index: (batch,) int64, the bank's row for each row of the batch; repeats and any order are fine.
        mask: bool (True = attend) or additive float, broadcastable to (batch, heads, queries, tokens).
        causal: query i sees own token j where j <= i + tokens - queries: aligned bottom-right, so the last query sees
            all tokens.
        scale: factor of the scores; None = 1 / sqrt(head_dim).

    Returns:
        (batch, heads, queries, head_dim), in the dtype of the inputs.

    Raises:
        ValueError: shapes or dtypes do not fit, or `index` (on CPU) points outside the bank.
        RuntimeError: in a second derivative of a fast path; run the forward pass inside `reference_kernels()`.

    >>> q = k = v = torch.randn(4, 2, 6, 8)  # 4 rows, 2 heads, 6 tokens
    >>> prompt = torch.randn(1, 2, 3, 8)  # 3 prompts that all rows share
    >>> shared = prompt_attention(q, k, v, prompt, prompt)
    >>> bank = torch.cat([torch.zeros_like(prompt), prompt])
    >>> torch.allclose(prompt_attention(q, k, v, bank, bank, index=torch.ones(4, dtype=torch.long)), shared, atol=1e-6)
    True
    """
    x = check(q, k, v, prompt_k, prompt_v, index, mask, causal, scale)
    return _split.split(x) if split_pays(x) else concat(x)


def concat(x: Inputs) -> Tensor:
    """`prompt_attention`, always as SDPA over concatenated keys and values: the reference."""
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


concat_attention = on_inputs(concat)


def split_pays(x: Inputs) -> bool:
    """Whether two partitions are expected to be faster than one concatenation: see the module's docstring."""
    if not fast_paths_enabled() or transforming():
        return False
    rows, heads, queries, dim = x.q.shape
    prompt, tokens = x.prompt_k.shape[2], x.k.shape[2]
    if x.q.device.type != "cpu" or x.prompt_k.shape[0] != 1 or heads != x.k.shape[1]:
        return False
    copied = prompt + tokens
    return copied > 2 * queries and rows * heads * copied * dim >= _WORTH_IT and _split.backend_for(x) is not None
