"""A prompt in front of every row, for models that cannot share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pt_core import Insert
from pt_core.backbone import Edit
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone


def prepend(
    backbone: LanguageBackbone, inputs: Mapping[str, Tensor], edits: Mapping[str, tuple[Edit, ...]]
) -> tuple[Tensor, Tensor]:
    """(embeddings, mask) with the prompt of site `input` in front of every row; bidirectional models cannot share it. Padding is moved to
    the right, so that neither positions nor distances depend on it."""
    order = (inputs["mask"] == 0).long().argsort(dim=1, stable=True)
    embeds, mask = backbone.embed(inputs["ids"].gather(1, order)), inputs["mask"].gather(1, order)
    inserted: Sequence[Edit] = edits.get("input", ())
    if inserted:
        edit = inserted[0]
        if len(inserted) > 1 or not isinstance(edit, Insert) or not isinstance(edit.tokens, Tensor):
            raise UserError("site 'input' takes one Insert of a tensor")
        rows = edit.tokens if edit.index is None else edit.tokens[edit.index]
        if rows.shape[-1] != backbone.dim:
            raise UserError(f"the prompt has width {rows.shape[-1]}, backbone {backbone.source!r} has {backbone.dim}")
        rows = (rows[None] if rows.ndim == 2 else rows).to(embeds.dtype).expand(len(embeds), -1, -1)
        embeds = torch.cat([rows, embeds], 1)
        mask = torch.cat([mask.new_ones(rows.shape[:2]), mask], 1)
    bridge.check_length(embeds.shape[1] - inputs["ids"].shape[1], inputs["ids"].shape[1], backbone.sizes.context)
    return embeds, mask
