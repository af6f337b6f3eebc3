"""The package's own patch Transformer behind the Backbone contract."""

from __future__ import annotations

from typing import Any, cast

import torch
from pt_core.backbone import Edits, Features, Insert, Layout
from torch import Tensor
from torch.nn import functional as F

from pt_timeseries.adapters.base import Checked, PretrainedHead, SeriesBackbone, ends_of
from pt_timeseries.adapters.encoder import Block, PatchEncoder, extended
from pt_timeseries.adapters.sequence import Tokens, apply_values, check_inserts


class PatchBackbone(SeriesBackbone):
    """Sites `series`, `tokens[l]`, `attn_out[l]`, `features`. A prompt is cut into patches by itself, embedded by the frozen patch
    embedding, and put in front of the data's tokens, which keep the position codes they have without a prompt."""

    module: PatchEncoder
    sites = frozenset({"series", "tokens[l]", "attn_out[l]", "features"})
    masks = True

    def __init__(self, module: PatchEncoder, source: str, head: PretrainedHead | None = None) -> None:
        config = module.config
        super().__init__(module, source, config.channels, config.length)
        self.dim = self.feature_dim = config.dim
        self.depth, self.stride, self.head = config.depth, config.stride, head

    def prompt_tokens(self, length: int) -> int:
        return self.module.config.tokens(length)

    def prompt_edits(self, series: Tensor, codes: Tensor) -> Edits:
        if not series.shape[-1]:
            return {}
        tokens = self.module.patches(series) + codes
        return {"tokens[0]": Insert(tokens, at="front", keep_output=True)}

    def encode(self, inputs: Any, edits: Checked, read: frozenset[str] | None) -> Features:
        net = self.module
        check_inserts(edits, self.source)
        series = apply_values("series", self.check_series(inputs), Layout(()), edits)
        here: Tensor | None = None
        if self.padded:
            ends = ends_of(series)
            series = extended(series, ends)
            # A patch that starts behind the end holds nothing of the series.
            starts = torch.arange(net.config.tokens(series.shape[-1]), device=series.device) * net.config.stride
            here = starts < ends[:, None]
        tokens = net.patches(series)
        sequence = Tokens(tokens + net.position[: tokens.shape[1]], edits)
        for layer, module in enumerate(net.blocks):
            block = cast("Block", module)
            hidden = sequence.enter(layer)
            there = None if here is None else _with_prompts(here, hidden.shape[1])
            attended = apply_values(f"attn_out[{layer}]", block.attend(hidden, there), sequence.layout, edits)
            hidden = hidden + attended
            sequence.leave(hidden + block.feed(hidden, there))
        tokens = net.norm(sequence.tokens)
        if here is not None:
            tokens = tokens.masked_fill(~_with_prompts(here, tokens.shape[1])[..., None], torch.nan)
        return sequence.features(tokens)


def _with_prompts(here: Tensor, count: int) -> Tensor:
    """(batch, count): which tokens are there, the prompts in front included."""
    return F.pad(here, (count - here.shape[1], 0), value=True)
