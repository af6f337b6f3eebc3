"""open_clip's text transformer behind the contract. How it masks, pads and pools is read from the network.

A causal tower is cut behind the longest end token, and the beginning that all classes share (start token and context) is encoded once: its
keys and values serve all classes, without copies. Towers that look both ways, and those that pool a last or an added token, run whole.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, text_global_pool
from pt_core.errors import UserError
from pt_core.kernels import prompt_attention
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.adapters.clip.blocks import projected, residual
from pt_vision.adapters.clip.rows import Rows, common_start
from pt_vision.adapters.clip.words import Sets, WordsTower
from pt_vision.adapters.edits import Edits
from pt_vision.networks.clip.tokens import Framing, IntArray

ENDS = ("argmax", "eos")
"""Poolings that read the end token."""


class JoinedText(nn.Module):
    """The text half of open_clip's `CLIP`, which keeps it among its own attributes; the modules are shared, not copied."""

    cls_emb = None
    use_pad_mask = False

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name in ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"):
            setattr(self, name, getattr(model, name))
        self.register_buffer("attn_mask", model.attn_mask, persistent=False)
        self.pool_type, self.eos_id = model.text_pool_type, model.text_eos_id


class ClipText(WordsTower):
    """`TextTransformer`, or the text half of `CLIP`. Sites `input`, `tokens[l]` (l from 1), `features`.

    Attributes:
        causal: whether a token sees only those before it.
    """

    sites = frozenset({"input", "tokens[l]", "features"})

    def __init__(self, module: Any, source: str, framing: Framing) -> None:
        self.causal = module.attn_mask is not None
        self.pooling = "added" if module.cls_emb is not None else str(module.pool_type)
        if self.pooling not in (*ENDS, "first", "last", "added"):
            raise UserError(f"the text tower of {source!r} pools by {self.pooling!r}, which gives no vector per text")
        blocks = list(module.transformer.resblocks)
        self.depth, self.dim = len(blocks), int(module.token_embedding.weight.shape[1])
        super().__init__(module, source, framing, {"pooling": self.pooling, "causal": self.causal})
        if self.pooling == "eos" and module.eos_id not in (*framing.head, *framing.tail):
            raise UserError(
                f"the text tower of {source!r} pools at token {module.eos_id}, which its tokenizer never writes"
            )
        self._plain_blocks = all(type(block) is ResidualAttentionBlock for block in blocks)

    def embedding(self) -> nn.Embedding:
        found: nn.Embedding = self.module.token_embedding
        return found

    def needed(self, ids: IntArray) -> int:
        cut = self.causal and self.pooling in ENDS
        return int(self._ends(ids).max()) + 1 if cut else ids.shape[1]

    def plain(self, rows: Rows, sets: Sets, edits: Edits) -> tuple[Tensor, Tensor]:
        module, count = self.module, max((some.shape[0] for some in sets.values()), default=1)
        ids = self.tensor(rows.ids).repeat(count, 1)
        hidden = self.valued("input", self.embed(rows, sets), edits)
        if module.cls_emb is not None:
            hidden = torch.cat([hidden, module.cls_emb.expand(len(hidden), 1, -1)], 1)
        length = hidden.shape[1]
        mask = None if module.attn_mask is None else module.attn_mask[:length, :length].to(hidden.dtype)
        if module.cls_emb is not None or module.use_pad_mask:
            # pads are told by their id, and a context's places hold an ordinary one
            padded = module._build_additive_mask(ids, length, hidden.dtype)
            mask = padded if mask is None else mask[None] + padded
        hidden = hidden + module.positional_embedding[:length].to(hidden.dtype)
        for layer, block in enumerate(module.transformer.resblocks):
            if layer:
                hidden = self.put(hidden, rows, sets, layer)
            hidden = self.valued(f"tokens[{layer}]", hidden, edits)
            hidden = block(hidden, attn_mask=mask)
        normed = self.valued("features", module.ln_final(hidden), edits)
        added = module.cls_emb is not None
        pooled = text_global_pool(normed, ids, "last" if added else module.pool_type, eos_token_id=module.eos_id)
        return normed, self._project(pooled)

    def shared(self, rows: Rows, sets: Sets) -> list[Tensor] | None:
        if not (self.causal and self.pooling in ENDS and self._plain_blocks):
            return None
        per_class = any(some.shape[1] > 1 for some in sets.values())
        size = min(common_start(rows, per_class), int(self._ends(rows.ids).min()))
        if not size:
            return None
        first = Rows(rows.ids[:1], rows.places[:1])
        own = {layer: some[:, :1] for layer, some in sets.items()}
        columns = slice(0, size)
        hidden = self.embed(first, own, columns) + self.module.positional_embedding[:size]
        kept: list[Tensor] = []
        for layer, block in enumerate(self.module.transformer.resblocks):
            hidden = self.put(hidden, first, own, layer, columns) if layer else hidden
            q, k, v = projected(block, hidden)
            kept += [k, v]
            if layer < self.depth - 1:
                hidden = residual(block, hidden, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return kept

    def rest(self, rows: Rows, sets: Sets, start: list[Tensor]) -> Tensor:
        size, length = start[0].shape[2], rows.ids.shape[1]
        columns, classes, count = slice(size, length), len(rows.ids), start[0].shape[0]
        hidden = self.embed(rows, sets, columns) + self.module.positional_embedding[columns]
        index = None if count == 1 else torch.arange(count, device=hidden.device).repeat_interleave(classes)
        for layer, block in enumerate(self.module.transformer.resblocks):
            hidden = self.put(hidden, rows, sets, layer, columns) if layer else hidden
            q, k, v = projected(block, hidden)
            before, behind = (tensor.to(k.dtype) for tensor in start[2 * layer : 2 * layer + 2])
            hidden = residual(block, hidden, prompt_attention(q, k, v, before, behind, index=index, causal=True))
        ends = self.tensor(self._ends(rows.ids) - size).repeat(count)
        return self._project(self.module.ln_final(hidden[torch.arange(len(hidden), device=hidden.device), ends]))

    def _ends(self, ids: IntArray) -> IntArray:
        """(row,): where a row is pooled."""
        ends: IntArray = (ids if self.pooling == "argmax" else ids == self.module.eos_id).argmax(1)
        return ends

    def _project(self, pooled: Tensor) -> Tensor:
        projection = self.module.text_projection
        if projection is None:
            return pooled
        result: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return result
