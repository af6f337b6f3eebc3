"""Decoders that are trained: DAFormer's, and HRDA's scale attention.

Each reads maps F_1..F_4, (batch, d_i, row / 2^i, column / 2^i), and returns logits at the resolution of F_1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pt_core.randomness import Dropout
from torch import Tensor, nn

from pt_vision.networks.segformer import ConvNorm, Embed, embed_map, resize


class _EmbeddedHead(nn.Module):
    """F_i -> Linear to E -> bilinear to 1/4 -> concatenation; then `fuse`, channel dropout and a 1x1 classifier."""

    fuse: nn.Module
    name = "head"
    """Tells its dropout from that of others in the same segmenter."""

    def __init__(self, dims: Sequence[int], classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.ModuleList(Embed(dim, width) for dim in dims)
        self.dropout = Dropout(dropout, self.name, channels=True)
        self.classifier = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(cast("Tensor", self.classifier.bias))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(batch, class, row / 4, column / 4)."""
        size = maps[0].shape[2:]
        parts = [resize(embed_map(linear, x), size) for linear, x in zip(self.embed, maps, strict=True)]
        out: Tensor = self.classifier(self.dropout(self.fuse(torch.cat(parts, 1))))
        return out


class SeparableASPP(nn.Module):
    """Parallel dilated branches (a 1x1 convolution for dilation 1, else depthwise 3x3 and pointwise, all with BatchNorm and ReLU),
    concatenated and brought back by a 3x3 convolution with BatchNorm and ReLU. No image pooling."""

    def __init__(self, inputs: int, width: int, dilations: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNorm(inputs, width)
            if rate == 1
            else nn.Sequential(ConvNorm(inputs, inputs, 3, rate, inputs), ConvNorm(inputs, width))
            for rate in dilations
        )
        self.bottleneck = ConvNorm(len(dilations) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bottleneck(torch.cat([branch(x) for branch in self.branches], 1))
        return out


class DAFormerHead(_EmbeddedHead):
    """DAFormer's context-aware fusion: an ASPP over the concatenated stages.

    Parameters (E = 256, d = 64, 128, 320, 512, K = 19): 3,712,275.
    """

    def __init__(self, dims: Sequence[int], classes: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__(dims, classes, width, dropout)
        self.fuse = SeparableASPP(4 * width, width)


class ScaleAttentionHead(_EmbeddedHead):
    """HRDA's scale attention: DAFormer's head with one 1x1 convolution as fusion; its sigmoid is the weight of the detail per class.

    Parameters (E = 256, d = 64, 128, 320, 512, K = 19): 530,707.
    """

    name = "attention"

    def __init__(self, dims: Sequence[int], classes: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__(dims, classes, width, dropout)
        self.fuse = ConvNorm(4 * width, width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return super().forward(maps).sigmoid()
