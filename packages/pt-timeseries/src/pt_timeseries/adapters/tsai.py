"""tsai's architectures behind the Backbone contract: TST and PatchTST take prompt tokens, InceptionTime takes the prompt as series.

tsai (with fastai) takes seconds to import, so this module is imported only where one of these architectures is named or given.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from pt_core.backbone import Edits, Features, Insert, Layout, Replace
from pt_core.errors import UserError, require
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
    kind: Any = _module(name)
    if name == "InceptionTime":
        net = kind(config.channels, 1, nf=max(1, config.dim // 4), depth=config.depth)
        net.fc = nn.Identity()
        return InceptionTime(net, source, head, config.length)
    sizes: dict[str, Any] = {
        "n_layers": config.depth,
        "d_model": config.dim,
        "n_heads": config.heads,
        "d_ff": config.hidden,
        "dropout": config.dropout,
        "stride": config.stride,
    }
    if name == "TST":
        net = kind(config.channels, 1, config.length, kernel_size=config.patch, **sizes)
        net.head = nn.Identity()
        return TST(net, source, head)
    own = {"pred_dim": 1, "patch_len": config.patch, "revin": False, "res_attention": False}
    net = kind(config.channels, 1, config.length, **own, **sizes)
    net.model.head = nn.Identity()
    return PatchTST(net, source, head, config.length)


def adapt_tsai(module: nn.Module, source: str) -> SeriesBackbone | None:
    """The backbone around a network of tsai's; None where it is of another kind."""
    kinds: dict[str, Any] = {"TST": TST, "PatchTST": PatchTST, "InceptionTime": InceptionTime}
    for name, kind in kinds.items():
        if isinstance(module, _module(name)):
            adapted: SeriesBackbone = kind(module, source)
            return adapted
    return None


def _module(name: str) -> Any:
    return getattr(cast("Any", require(f"tsai.models.{name}", "pt-timeseries[tsai]")), name)


class TST(SeriesBackbone):
    """TST, a token per step, or per stride of the convolution that is its input layer (tsai options `kernel_size` and `stride`, or
    `max_seq_len`): sites `series`, `tokens[l]`, `features`.

    Raises:
        UserError: a padded or dilated convolution, which has no tokens of whole strides.
    """

    sites = frozenset({"series", "tokens[l]", "features"})

    def __init__(self, net: Any, source: str, head: PretrainedHead | None = None) -> None:
        # With `max_seq_len` tsai pads in front of the convolution.
        last: Any = net.W_P[-1] if isinstance(net.W_P, nn.Sequential) else net.W_P
        channels, patch, stride = getattr(last, "in_features", 0), 1, 1
        if isinstance(last, nn.Conv1d):
            channels, patch, stride = last.in_channels, last.kernel_size[0], last.stride[0]
            if last.padding not in (0, (0,)) or last.dilation != (1,):
                raise UserError(
                    f"{source}: its input convolution is padded or dilated, so a prompt has no tokens of its own"
                )
        super().__init__(net, source, channels, net.seq_len)
        self.embed, self.patch, self.stride, self.head = last, patch, stride, head
        self.dim = self.feature_dim = net.W_pos.shape[1]
        self.depth = len(net.encoder.layers)

    def prompt_tokens(self, length: int) -> int:
        return length // self.stride

    def prompt_edits(self, series: Tensor, codes: Tensor) -> Edits:
        if not series.shape[-1]:
            return {}
        whole = F.pad(series, (0, self.patch - self.stride), mode="replicate") if self.patch > self.stride else series
        return {"tokens[0]": Insert(self._tokens(self.embed, whole) + codes, at="front", keep_output=True)}

    def _tokens(self, embed: nn.Module, series: Tensor) -> Tensor:
        """(batch, token, dim)."""
        series = series.to(self.dtype)
        if isinstance(embed, nn.Linear):
            return cast("Tensor", embed(series.transpose(1, 2)))
        return cast("Tensor", embed(series).transpose(1, 2))

    def encode(self, inputs: Any, edits: Checked, read: frozenset[str] | None) -> Features:
        net = cast("Any", self.module)
        check_inserts(edits, self.source)
        series = apply_values("series", self.check_series(inputs), Layout(()), edits)
        tokens = self._tokens(net.W_P, series)
        sequence = Tokens(net.dropout(tokens + net.W_pos[: tokens.shape[1]]), edits)
        for layer, block in enumerate(net.encoder.layers):
            sequence.leave(block(sequence.enter(layer)))
        return sequence.features(sequence.tokens)


class PatchTST(SeriesBackbone):
    """tsai's channel-independent PatchTST encoder: every channel is a sequence of its own, and takes the prompt's segment of that channel,
    behind instance normalisation (RevIN) where the network has it. Features are averaged over channels.

    Args:
        length: L it was built for; where it is not known, all lengths that give its number of patches are taken.

    Raises:
        UserError: a network that decomposes its input, which has two encoders.
    """

    sites = frozenset({"series", "tokens[l]", "features"})

    def __init__(self, net: Any, source: str, head: PretrainedHead | None = None, length: int | None = None) -> None:
        if net.decomposition:
            raise UserError(f"{source}: decomposition=True gives two encoders; prompts have no place in both")
        model = net.model
        shortest = (model.patch_num - 2) * model.stride + model.patch_len
        super().__init__(net, source, model.n_vars, length or shortest + model.stride - 1)
        self.shortest = length or shortest
        self.patch, self.stride, self.head = model.patch_len, model.stride, head
        self.dim = self.feature_dim = model.backbone.W_pos.shape[1]
        self.depth = len(model.backbone.layers)

    def prompt_tokens(self, length: int) -> int:
        return math.ceil(length / self.stride)

    def prompt_edits(self, series: Tensor, codes: Tensor) -> Edits:
        if not series.shape[-1]:
            return {}
        single = series.to(self.dtype).flatten(0, 1)[:, None]
        tokens = cast("Any", self.module).model.backbone.W_P(cut(single, self.patch, self.stride))
        return {"tokens[0]": Insert(tokens + codes, at="front", keep_output=True)}

    def encode(self, inputs: Any, edits: Checked, read: frozenset[str] | None) -> Features:
        model = cast("Any", self.module).model
        encoder = model.backbone
        check_inserts(edits, self.source)
        series = apply_values("series", self.check_series(inputs), Layout(()), edits).to(self.dtype)
        batch, channels, _ = series.shape
        if model.revin:
            series = model.revin_layer(series, True)
        # tsai repeats the first value in front, so that the last patch ends with the series.
        padded = F.pad(series, (self.stride, 0), mode="replicate")
        patches = padded.flatten(0, 1).unfold(-1, self.patch, self.stride)
        sequence = Tokens(encoder.dropout(encoder.W_P(patches) + encoder.W_pos[: patches.shape[1]]), edits)
        scores: Tensor | None = None
        for layer, block in enumerate(encoder.layers):
            hidden = sequence.enter(layer)
            if not encoder.res_attention:
                sequence.leave(block(hidden))
                continue
            if scores is not None and scores.shape[-1] != hidden.shape[1]:
                raise UserError(
                    f"{self.source!r} adds the attention of one block to the next (res_attention): tokens enter at tokens[0] and stay"
                )
            hidden, scores = block(hidden, prev=scores)
            sequence.leave(hidden)
        found = sequence.features(sequence.tokens)
        return Features(found.tokens.unflatten(0, (batch, channels)).mean(1), found.layout)


class InceptionTime(SeriesBackbone):
    """InceptionTime: convolutions of any length, so the prompt is put in front of the series itself; no tokens, no position codes."""

    sites = frozenset({"series", "features"})

    def __init__(self, net: Any, source: str, head: PretrainedHead | None = None, length: int | None = None) -> None:
        block = net.inceptionblock
        super().__init__(net, source, block.inception[0].maxconvpool[1].in_channels, length)
        self.head, self.depth, self.stride = head, block.depth, 1
        self.dim = self.feature_dim = block.inception[-1].bn.num_features

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
