"""tsai's architectures behind the Backbone contract: TST and PatchTST take prompt tokens, InceptionTime takes the prompt as series.

tsai (with fastai) takes seconds to import, so this module is imported only where one of these architectures is named.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from pt_core.backbone import Edits, Features, Insert, Layout, Replace
from pt_core.errors import require
from torch import Tensor, nn
from torch.nn import functional as F

from pt_timeseries.adapters.base import Checked, PretrainedHead, SeriesBackbone
from pt_timeseries.adapters.encoder import EncoderConfig, cut
from pt_timeseries.adapters.sequence import Tokens, apply_values, check_inserts


def build_tsai(name: str, config: EncoderConfig, source: str, head: PretrainedHead | None = None) -> SeriesBackbone:
    """A backbone with tsai's initial weights; its own classifier is left out (features are averaged over time instead).

    Raises:
        MissingExtra: tsai is not installed.
    """
    kinds: dict[str, Any] = {"TST": TST, "PatchTST": PatchTST, "InceptionTime": InceptionTime}
    built: SeriesBackbone = kinds[name](config, source, head)
    return built


def _module(name: str) -> Any:
    return cast("Any", require(f"tsai.models.{name}", "pt-timeseries[tsai]"))


class Tsai(SeriesBackbone):
    """A network of tsai without its classifier.

    Args:
        net: takes series (batch, channel, step).
        width: of its features.
        stride: steps per token.
    """

    def __init__(
        self, net: nn.Module, config: EncoderConfig, source: str, head: PretrainedHead | None, width: int, stride: int
    ) -> None:
        super().__init__(net, source, config.channels, config.length)
        self.config, self.head = config, head
        self.dim = self.feature_dim = width
        self.depth, self.stride = config.depth, stride


def _sizes(config: EncoderConfig) -> dict[str, Any]:
    """Arguments that tsai's Transformers share."""
    return {
        "n_layers": config.depth,
        "d_model": config.dim,
        "n_heads": config.heads,
        "d_ff": config.hidden,
        "dropout": config.dropout,
        "stride": config.stride,
    }


class TST(Tsai):
    """TST with a strided convolution as input layer (a tsai option): a token per stride, sites `series`, `tokens[l]`, `features`."""

    sites = frozenset({"series", "tokens[l]", "features"})

    def __init__(self, config: EncoderConfig, source: str, head: PretrainedHead | None = None) -> None:
        net = _module("TST").TST(config.channels, 1, config.length, kernel_size=config.patch, **_sizes(config))
        net.head = nn.Identity()
        super().__init__(net, config, source, head, config.dim, config.stride)

    def prompt_tokens(self, length: int) -> int:
        return length // self.stride

    def prompt_edits(self, series: Tensor, codes: Tensor) -> Edits:
        if not series.shape[-1]:
            return {}
        whole = F.pad(series, (0, self.config.patch - self.config.stride), mode="replicate")
        tokens = cast("Any", self.module).W_P(whole.to(self.dtype)).transpose(1, 2)
        return {"tokens[0]": Insert(tokens + codes, at="front", keep_output=True)}

    def encode(self, inputs: Any, edits: Checked, read: frozenset[str] | None) -> Features:
        net = cast("Any", self.module)
        check_inserts(edits, self.source)
        series = apply_values("series", self.check_series(inputs), Layout(()), edits)
        tokens = net.W_P(series.to(net.W_pos.dtype)).transpose(1, 2)
        sequence = Tokens(net.dropout(tokens + net.W_pos[: tokens.shape[1]]), edits)
        for layer, block in enumerate(net.encoder.layers):
            sequence.leave(block(sequence.enter(layer)))
        return sequence.features(sequence.tokens)


class PatchTST(Tsai):
    """tsai's channel-independent PatchTST encoder (no RevIN, no residual attention): every channel is a sequence of its own, and takes the
    prompt's segment of that channel. Features are averaged over channels."""

    sites = frozenset({"series", "tokens[l]", "features"})

    def __init__(self, config: EncoderConfig, source: str, head: PretrainedHead | None = None) -> None:
        kind = {"pred_dim": 1, "patch_len": config.patch, "revin": False, "res_attention": False}
        net = _module("PatchTST").PatchTST(config.channels, 1, config.length, **kind, **_sizes(config))
        net.model.head = nn.Identity()
        super().__init__(net, config, source, head, config.dim, config.stride)

    def prompt_tokens(self, length: int) -> int:
        return math.ceil(length / self.stride)

    def prompt_edits(self, series: Tensor, codes: Tensor) -> Edits:
        if not series.shape[-1]:
            return {}
        encoder = cast("Any", self.module).model.backbone
        single = series.to(self.dtype).flatten(0, 1)[:, None]
        tokens = encoder.W_P(cut(single, self.config.patch, self.config.stride))
        return {"tokens[0]": Insert(tokens + codes, at="front", keep_output=True)}

    def encode(self, inputs: Any, edits: Checked, read: frozenset[str] | None) -> Features:
        encoder = cast("Any", self.module).model.backbone
        check_inserts(edits, self.source)
        series = apply_values("series", self.check_series(inputs), Layout(()), edits)
        batch, channels, _ = series.shape
        # tsai repeats the first value in front, so that the last patch ends with the series.
        padded = F.pad(series.to(self.dtype), (self.config.stride, 0), mode="replicate")
        patches = padded.flatten(0, 1).unfold(-1, self.config.patch, self.config.stride)
        sequence = Tokens(encoder.dropout(encoder.W_P(patches) + encoder.W_pos[: patches.shape[1]]), edits)
        for layer, block in enumerate(encoder.layers):
            sequence.leave(block(sequence.enter(layer)))
        found = sequence.features(sequence.tokens)
        return Features(found.tokens.unflatten(0, (batch, channels)).mean(1), found.layout)


class InceptionTime(Tsai):
    """InceptionTime: convolutions of any length, so the prompt is put in front of the series itself; no tokens, no position codes."""

    sites = frozenset({"series", "features"})

    def __init__(self, config: EncoderConfig, source: str, head: PretrainedHead | None = None) -> None:
        width = max(1, config.dim // 4)
        net = _module("InceptionTime").InceptionTime(config.channels, 1, nf=width, depth=config.depth)
        net.fc = nn.Identity()
        super().__init__(net, config, source, head, 4 * width, 1)

    def prompt_tokens(self, length: int) -> int:
        return 0

    def prompt_edits(self, series: Tensor, codes: Tensor) -> Edits:
        if not series.shape[-1]:
            return {}
        return {"series": Replace(lambda data, layout: torch.cat([series.to(data.dtype), data], -1))}

    def encode(self, inputs: Any, edits: Checked, read: frozenset[str] | None) -> Features:
        own = self.check_series(inputs)
        series = apply_values("series", own, Layout(()), edits)
        tokens = cast("Any", self.module).inceptionblock(series.to(self.dtype)).transpose(1, 2)
        layout = Layout((("prompt", tokens.shape[1] - own.shape[-1]), ("token", own.shape[-1])))
        return Features(apply_values("features", tokens, layout, edits), layout)
