"""SegFormer's decoder of a four-stage pyramid, and the layers that further decoders are made of.

It reads maps F_1..F_4, (batch, d_i, row / 2^i, column / 2^i), and returns logits at the resolution of F_1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from pt_core.randomness import Dropout
from torch import Tensor, nn
from torch.nn import functional as F


def resize(x: Tensor, size: Any) -> Tensor:
    """Bilinear, pixel centres aligned (align_corners False)."""
    size = tuple(int(n) for n in size)
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(
            inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=False
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__()
        self.add_module("conv", conv)
        self.add_module("bn", nn.BatchNorm2d(outputs))
        self.add_module("act", nn.ReLU())


class Embed(nn.Module):
    """Linear d_i -> E on every position; named `proj` as in the published files."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(tokens)


def embed_map(linear: nn.Module, x: Tensor) -> Tensor:
    """(batch, d, row, column) -> (batch, E, row, column)."""
    return linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


class SegFormerHead(nn.Module):
    """Four linear maps to E channels, enlarged to 1/4 and concatenated from F_4 to F_1, one 1x1 convolution with BatchNorm and ReLU,
    dropout, and a 1x1 classifier. Parameters are named as in the published files (`linear_c1.proj.weight`, `linear_fuse.conv.weight` ...).

    Parameters: sum_i (d_i E + E) + 4 E^2 + 2 E + K E + K; the classifier (last two terms) is left out with `classes=0`.
    """

    def __init__(self, dims: Sequence[int], classes: int, width: int = 768, dropout: float = 0.1) -> None:
        super().__init__()
        self.width = width
        for number, dim in enumerate(dims, start=1):
            self.add_module(f"linear_c{number}", Embed(dim, width))
        self.linear_fuse = ConvNorm(4 * width, width)
        self.dropout = Dropout(dropout, "head", channels=True)
        self.linear_pred = nn.Conv2d(width, classes, 1) if classes else None

    @property
    def linears(self) -> list[nn.Module]:
        """Of stage 0..3."""
        return [cast("nn.Module", getattr(self, f"linear_c{number}")) for number in range(1, 5)]

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts)[::-1], 1)

    def fuse(self, concatenated: Tensor) -> Tensor:
        """(batch, 4 E, row, column) -> (batch, E, row, column)."""
        out: Tensor = self.linear_fuse(concatenated)
        return out

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        parts = [resize(embed_map(linear, x), size) for linear, x in zip(self.linears, maps, strict=True)]
        assert self.linear_pred is not None
        out: Tensor = self.linear_pred(self.dropout(self.fuse(self.concatenate(parts))))
        return out
