"""Edits of the token sequence: inserted tokens, as rows or as keys and values, and changes of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pt_core.backbone import Add, Edit, KeyValue, Layout
from pt_core.errors import UserError
from torch import Tensor

from pt_pointcloud.networks.transformer import Block

Edits = Mapping[str, tuple[Edit, ...]]


@dataclass(frozen=True)
class Prompt:
    """Inserted tokens: (1 | batch | tenants, prompt, dim), with the tenant of every row where there are tenants."""

    tokens: Tensor
    index: Tensor | None = None

    def checked(self, dim: int, layer: int, batch: int | None, like: Tensor) -> Prompt:
        tokens = self.tokens[None] if self.tokens.ndim == 2 else self.tokens
        fits = tokens.ndim == 3 and tokens.shape[-1] == dim
        rows = batch is None or self.index is not None or tokens.shape[0] in (1, batch)
        if not fits or not rows:
            raise UserError(
                f"prompt tokens {tuple(self.tokens.shape)} do not fit tokens[{layer}], width {dim}, batch {batch}"
            )
        return Prompt(tokens.to(like.device, like.dtype), self.index)

    def rows(self, batch: int) -> Tensor:
        """(batch, prompt, dim)."""
        tokens = self.tokens if self.index is None else self.tokens[self.index]
        return tokens.expand(batch, -1, -1)


def key_value(block: Block, prompt: Prompt) -> KeyValue:
    """The prompt as the block's attention sees it."""
    _, k, v = block.attn.split(block.norm1(prompt.tokens))
    return KeyValue(k, v, prompt.index)


def merge(items: Sequence[KeyValue], batch: int) -> KeyValue:
    """One pair of keys and values; a single one keeps its index, several are spread over the batch where they differ in rows."""
    if len(items) == 1:
        return items[0]
    if all(item.index is None and item.k.shape[0] == items[0].k.shape[0] for item in items):
        return KeyValue(torch.cat([item.k for item in items], 2), torch.cat([item.v for item in items], 2))

    def spread(tensor: Tensor, index: Tensor | None) -> Tensor:
        return tensor[index] if index is not None else tensor.expand(batch, -1, -1, -1)

    return KeyValue(*(torch.cat([spread(getattr(item, name), item.index) for item in items], 2) for name in ("k", "v")))


def keep(hidden: Tensor, layout: Layout, rows: Tensor, at: str) -> tuple[Tensor, Layout]:
    """Insert rows that stay: behind the class token, or in front of everything; behind prompts that are there already."""
    segments = list(layout.segments)
    known = layout.slice("prompt")
    if layout.count("prompt"):
        place = known.stop
        segments = [(kind, n + rows.shape[1]) if kind == "prompt" else (kind, n) for kind, n in segments]
    else:
        number = 1 if at == "after_prefix" and layout.count("class") else 0
        place = 1 if number else 0
        segments.insert(number, ("prompt", rows.shape[1]))
    return torch.cat([hidden[:, :place], rows, hidden[:, place:]], 1), Layout(tuple(segments), layout.grid)


def changed(edit: Edit, hidden: Tensor, layout: Layout) -> Tensor:
    """What an `Add` or `Replace` edit makes of the values."""
    value: Tensor = edit.fn(hidden, layout).to(hidden.dtype)  # type: ignore[union-attr]
    return hidden + value if isinstance(edit, Add) else value


def apply(site: str, hidden: Tensor, layout: Layout, edits: Edits, added: int = 0) -> Tensor:
    """Value edits on the tokens of the layout; `added` dropped prompts in front of them are left alone."""
    for edit in edits.get(site, ()):
        own = changed(edit, hidden[:, added:], layout)
        hidden = torch.cat([hidden[:, :added], own], 1) if added else own
    return hidden
