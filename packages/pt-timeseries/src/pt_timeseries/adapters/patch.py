"""The package's own patch Transformer behind the Backbone contract."""

from __future__ import annotations

from typing import Any, cast

from pt_core.backbone import Edits, Features, Insert, Layout
from torch import Tensor

from pt_timeseries.adapters.base import Checked, PretrainedHead, SeriesBackbone
from pt_timeseries.adapters.encoder import Block, PatchEncoder
from pt_timeseries.adapters.sequence import Tokens, apply_values, check_inserts


class PatchBackbone(SeriesBackbone):
    """Sites `series`, `tokens[l]`, `attn_out[l]`, `features`. A prompt is cut into patches by itself, embedded by the frozen patch
    embedding, and put in front of the data's tokens, which keep the position codes they have without a prompt."""

    module: PatchEncoder
    sites = frozenset({"series", "tokens[l]", "attn_out[l]", "features"})

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
        tokens = net.patches(series)
        sequence = Tokens(tokens + net.position[: tokens.shape[1]], edits)
        for layer, module in enumerate(net.blocks):
            block = cast("Block", module)
            hidden = sequence.enter(layer)
            attended = apply_values(f"attn_out[{layer}]", block.attend(hidden), sequence.layout, edits)
            hidden = hidden + attended
            sequence.leave(hidden + block.dropout(block.mlp(block.norm2(hidden))))
        return sequence.features(net.norm(sequence.tokens))
