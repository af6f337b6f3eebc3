"""Prompts as extra keys and values: projected, checked, merged, and precomputed where they do not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pt_core.backbone import Edit, Edits as AnyEdits, Insert, KeyValue
from pt_core.errors import UserError
from pt_core.kernels import fast_paths_enabled
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.sequence import Prompt, gather_rows


def merge_key_values(parts: Sequence[KeyValue], batch: int) -> KeyValue | None:
    """One `KeyValue` from several; stays batch-1 or a bank where all of them agree on it."""
    parts = [part for part in parts if part.k.shape[2]]
    if len(parts) < 2:
        return parts[0] if parts else None
    first = parts[0]
    if all(part.index is first.index and part.k.shape[0] == first.k.shape[0] for part in parts):
        return KeyValue(torch.cat([p.k for p in parts], 2), torch.cat([p.v for p in parts], 2), first.index)
    keys = torch.cat([gather_rows(p.k, p.index, batch) for p in parts], 2)
    return KeyValue(keys, torch.cat([gather_rows(p.v, p.index, batch) for p in parts], 2))


def check_key_values(site: str, edits: Sequence[Edit], hidden: Tensor, attn: Any) -> list[KeyValue]:
    """`KeyValue` edits of a block whose tokens are `hidden`, with their shapes checked and their indices on its device."""
    return [_checked(site, edit, hidden, attn) for edit in edits]


def _checked(site: str, edit: Edit, hidden: Tensor, attn: Any) -> KeyValue:
    assert isinstance(edit, KeyValue)
    batch, heads = hidden.shape[0], attn.num_heads
    head_dim = attn.qkv.out_features // 3 // heads
    shape = tuple(edit.k.shape)
    if edit.k.shape != edit.v.shape or len(shape) != 4 or shape[1] != heads or shape[3] != head_dim:
        raise UserError(
            f"{site!r} takes keys and values (1 | batch, {heads}, prompt, {head_dim}), "
            f"got {shape} and {tuple(edit.v.shape)}"
        )
    if edit.index is None:
        if shape[0] not in (1, batch):
            raise UserError(f"{site!r}: {shape[0]} sets of keys for a batch of {batch}; give 1, {batch}, or an index")
        return edit
    if edit.index.shape != (batch,):
        raise UserError(f"{site!r}: the prompt index has shape {tuple(edit.index.shape)}, the batch needs ({batch},)")
    return KeyValue(edit.k, edit.v, edit.index.to(device=hidden.device, dtype=torch.long))


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(batch, tokens, parts * heads * head_dim) -> `parts` tensors (batch, heads, tokens, head_dim)."""
    batch, tokens, _ = x.shape
    return x.reshape(batch, tokens, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def project_key_value(
    qkv: nn.Linear, heads: int, tokens: Tensor, k_norm: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values (rows, heads, tokens, head_dim) of normalised tokens (rows, tokens, dim), without queries."""
    inner = qkv.out_features // 3
    bias = None if qkv.bias is None else qkv.bias[inner:]
    kv = F.linear(tokens, qkv.weight[inner:], bias)
    k, v = split_heads(kv, 2, heads)
    return (k if k_norm is None else k_norm(k)), v


def prompt_key_value(block: Any, prompt: Prompt) -> KeyValue:
    """Keys and values of prompts in a block of timm's, computed once for all rows that share them."""
    attn = block.attn
    k, v = project_key_value(attn.qkv, attn.num_heads, block.norm1(prompt.tokens), getattr(attn, "k_norm", None))
    return KeyValue(k, v, prompt.index)


def lower_prompts(backbone: VisionBackbone, edits: AnyEdits, blocks: Sequence[Any]) -> AnyEdits:
    """Move every prompt that is a tensor and dropped after its block from `tokens[l]` to `kv[l]`; carries no gradient.

    Args:
        blocks: of the backbone; None where prompts stay tokens.
    """
    if not fast_paths_enabled():
        return edits
    lowered: dict[str, list[Any]] = {
        site: list(items) if isinstance(items, (list, tuple)) else [items] for site, items in edits.items()
    }
    with torch.no_grad():
        for site in [s for s in lowered if s.startswith("tokens[")]:
            layer = int(site[len("tokens[") : -1])
            kept: list[Any] = []
            for edit in lowered.pop(site):
                prompt = None if blocks[layer] is None else _fixed_prompt(backbone, layer, edit)
                if prompt is None:
                    kept.append(edit)
                else:
                    lowered.setdefault(f"kv[{layer}]", []).append(prompt_key_value(blocks[layer], prompt))
            if kept:
                lowered[site] = kept
    return {site: tuple(items) for site, items in lowered.items()}


def _fixed_prompt(backbone: VisionBackbone, layer: int, edit: Edit) -> Prompt | None:
    """The prompt of an edit whose tokens do not depend on the input and are dropped after the block."""
    if not isinstance(edit, Insert) or edit.keep_output or not isinstance(edit.tokens, Tensor):
        return None
    tokens, width = edit.tokens if edit.tokens.ndim == 3 else edit.tokens[None], backbone.width(layer)
    if tokens.shape[-1] != width:
        raise UserError(f"prompt tokens {tuple(edit.tokens.shape)} do not fit tokens[{layer}], width {width}")
    return Prompt(tokens.to(backbone.device, backbone.dtype), index=edit.index)
