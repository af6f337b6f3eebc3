"""Edits of a token sequence and of value sites, the same for every encoder here."""

from __future__ import annotations

import torch
from pt_core.backbone import Add, Features, Insert, Layout
from pt_core.errors import UserError
from torch import Tensor

from pt_timeseries.adapters.base import Checked


def apply_values(site: str, value: Tensor, layout: Layout, edits: Checked) -> Tensor:
    """Apply the `Add` and `Replace` edits of a value site."""
    for edit in edits.get(site, ()):
        assert not isinstance(edit, Insert)
        changed = edit.fn(value, layout)  # type: ignore[union-attr]
        value = value + changed if isinstance(edit, Add) else changed
    return value


class Tokens:
    """A token sequence whose front grows by kept prompts; what `tokens[l]` does, in one place.

    The order is [prompts | data]; there are no class or register tokens, so `at` makes no difference.
    """

    def __init__(self, tokens: Tensor, edits: Checked) -> None:
        self.tokens, self.edits = tokens, edits
        self.count, self.kept, self.dropped = tokens.shape[1], 0, 0

    @property
    def layout(self) -> Layout:
        return Layout((("prompt", self.kept), ("token", self.count)))

    def enter(self, layer: int) -> Tensor:
        """The sequence that enters block `layer`, its inserted tokens in front."""
        self.dropped = 0
        for edit in self.edits.get(f"tokens[{layer}]", ()):
            if not isinstance(edit, Insert):
                change = edit.fn(self.tokens, self.layout)  # type: ignore[union-attr]
                self.tokens = self.tokens + change if isinstance(edit, Add) else change
                continue
            prompt = edit.tokens if isinstance(edit.tokens, Tensor) else edit.tokens(self.tokens, self.layout)
            if edit.index is not None:
                prompt = prompt.index_select(0, edit.index)
            prompt = prompt.to(self.tokens.dtype).expand(len(self.tokens), *prompt.shape[-2:])
            self.tokens = torch.cat([prompt, self.tokens], 1)
            if edit.keep_output:
                self.kept += prompt.shape[1]
            else:
                self.dropped += prompt.shape[1]
        return self.tokens

    def leave(self, tokens: Tensor) -> None:
        """What the block returned; prompts whose outputs are not kept are cut off."""
        self.tokens = tokens[:, self.dropped :]

    def features(self, tokens: Tensor) -> Features:
        tokens = apply_values("features", tokens, self.layout, self.edits)
        return Features(tokens, self.layout)


def check_inserts(edits: Checked, source: str) -> None:
    """Kept prompts go in front of those that are dropped: both kinds in one block would mix up which is which."""
    for site, items in edits.items():
        kinds = {edit.keep_output for edit in items if isinstance(edit, Insert)}
        if len(kinds) == 2:
            raise UserError(f"{site} of {source!r} takes prompts that are kept or prompts that are dropped, not both")
