"""The two halves of open_clip's plain block, for what attends to more than its own tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from pt_vision.adapters.key_values import split_heads


def projected(block: Any, hidden: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values (rows, heads, l, head_dim) of a block with torch's attention."""
    attn = block.attn
    return split_heads(F.linear(block.ln_1(hidden), attn.in_proj_weight, attn.in_proj_bias), 3, attn.num_heads)


def residual(block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block, from what its heads give."""
    hidden = hidden + block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    result: Tensor = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    return result
