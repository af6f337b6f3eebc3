"""What the edits of a call do at a site: values added or replaced, branches, and prompts that enter a block."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pt_core.backbone import Add, Edit, Insert, Layout, Replace
from pt_core.errors import UserError
from torch import Tensor

from pt_vision.adapters.sequence import Prompt, insert_kept

Edits = Mapping[str, tuple[Edit, ...]]


def apply_values(site: str, hidden: Tensor, layout: Layout, edits: Edits) -> Tensor:
    """Run the `Add` and `Replace` edits of a value site in order; what they return is cast to the dtype of `hidden`."""
    for edit in edits.get(site, ()):
        hidden = apply_value(site, hidden, layout, edit)
    return hidden


def apply_value(site: str, hidden: Tensor, layout: Layout, edit: Edit) -> Tensor:
    if not isinstance(edit, (Add, Replace)):
        raise UserError(f"site {site!r} takes Add or Replace, not {type(edit).__name__}")
    value = edit.fn(hidden, layout).to(hidden.dtype)
    result = hidden + value if isinstance(edit, Add) else value
    if result.shape != hidden.shape and site != "pixels":
        raise UserError(f"the edit of {site!r} returned {tuple(value.shape)} for tokens {tuple(hidden.shape)}")
    return result


def add_branches(site: str, hidden: Tensor, layout: Layout, edits: Edits, out: Tensor) -> Tensor:
    """out + sum of fn(hidden) over the `Add` edits of a branch site."""
    for edit in edits.get(site, ()):
        assert isinstance(edit, Add)
        branch = edit.fn(hidden, layout)
        if branch.shape != out.shape:
            raise UserError(f"the edit of {site!r} returned {tuple(branch.shape)} for tokens {tuple(hidden.shape)}")
        out = out + branch.to(out.dtype)
    return out


def enter_block(
    site: str, hidden: Tensor, layout: Layout, edits: Edits, prefix: bool = True
) -> tuple[Tensor, Layout, list[Prompt]]:
    """Apply the edits of `tokens[l]` in order.

    Kept prompts join the sequence, and later edits see them. Prompts whose output is dropped after the block never are
    part of the sequence that edits see; they come back in a list.
    """
    dropped: list[Prompt] = []
    for edit in edits.get(site, ()):
        if not isinstance(edit, Insert):
            hidden = apply_value(site, hidden, layout, edit)
            continue
        prompt = resolve_insert(site, hidden, layout, edit)
        if prompt.tokens.shape[1] == 0:
            continue
        if edit.keep_output:
            hidden, layout = insert_kept(site, hidden, layout, prompt, prefix)
        else:
            dropped.append(prompt)
    return hidden, layout, dropped


def resolve_insert(site: str, hidden: Tensor, layout: Layout, edit: Insert) -> Prompt:
    """The prompt of an `Insert` in normal form, cast to the dtype of `hidden`.

    Raises:
        UserError: shapes that do not fit the batch or the token width.
    """
    batch, _, dim = hidden.shape
    tokens = edit.tokens(hidden, layout) if callable(edit.tokens) else edit.tokens
    tokens = tokens[None] if tokens.ndim == 2 else tokens
    if tokens.ndim != 3 or tokens.shape[2] != dim:
        raise UserError(f"prompt tokens {tuple(tokens.shape)} do not fit {site!r}, which has (batch, tokens, {dim})")
    index = edit.index
    if index is None:
        if tokens.shape[0] not in (1, batch):
            raise UserError(
                f"{site!r}: {tokens.shape[0]} sets of prompts for a batch of {batch}; give 1, {batch}, or an index"
            )
    else:
        if index.shape != (batch,):
            raise UserError(f"{site!r}: the prompt index has shape {tuple(index.shape)}, the batch needs ({batch},)")
        index = index.to(device=hidden.device, dtype=torch.long)
    return Prompt(tokens.to(device=hidden.device, dtype=hidden.dtype), edit.at, index)
