"""The two parts of a POND prompt: the common series segment P, and the conditional module g that adds dP = g(X) to it."""

from __future__ import annotations

import torch
from pt_core.errors import ConfigError, DataError
from pt_core.prompts import overlaid
from torch import Tensor, nn
from torch.nn import functional as F

from pt_timeseries.adapters.base import SeriesBackbone


class SeriesPrompt(nn.Module):
    """P in R^{n x m}, drawn from N(0, 0.02^2), and one position code per prompt token.

    Parameters: n * m + tokens(m) * d (no codes for convolutional backbones, which have no positions).

    Raises:
        ConfigError: m is no multiple of the backbone's stride; names the nearest lengths that are.
    """

    def __init__(self, backbone: SeriesBackbone, length: int) -> None:
        super().__init__()
        if length % backbone.stride:
            below = length // backbone.stride * backbone.stride
            raise ConfigError(
                f"prompt_length={length} is no multiple of the backbone's stride {backbone.stride}; "
                f"the nearest lengths are {below} and {below + backbone.stride}"
            )
        self.series = nn.Parameter(0.02 * torch.randn(backbone.channels, length))
        self.codes = nn.Parameter(0.02 * torch.randn(backbone.prompt_tokens(length), backbone.dim))

    def resized(self, name: str, earlier: Tensor) -> Tensor | None:
        """An earlier run's `series` or `codes` for a prompt of another length: what is new is fresh."""
        axes = {"series": 1, "codes": 0}
        return overlaid(earlier, getattr(self, name), axes[name]) if name in axes else None


KERNEL = 5
"""Steps that a convolution of a generator reads."""


class Generator(nn.Module):
    """g: (batch, n, L) -> dP (batch, n, m); the last layer starts at zero, so that every domain starts from the common prompt.

    Parameters: 5 n h + h + 5 h^2 + h + h n + n.
    """

    def __init__(self, channels: int, length: int, hidden: int = 32) -> None:
        super().__init__()
        self.length = length
        self.first = nn.Conv1d(channels, hidden, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv1d(hidden, hidden, KERNEL, stride=2)
        self.last = nn.Conv1d(hidden, channels, 1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, series: Tensor) -> Tensor:
        if series.shape[-1] < KERNEL:
            raise DataError(
                f"a series of {series.shape[-1]} steps is too short for a prompt generator; it reads {KERNEL} or more"
            )
        hidden = F.gelu(self.second(F.gelu(self.first(series.to(self.first.weight.dtype)))))
        delta: Tensor = self.last(F.adaptive_avg_pool1d(hidden, self.length))
        return delta


def generator_values(channels: int, hidden: int) -> int:
    """Parameters of one generator by its formula."""
    return 5 * channels * hidden + hidden + 5 * hidden**2 + hidden + hidden * channels + channels
