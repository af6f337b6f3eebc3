"""Modules that compute one prompt token from the patch tokens of a cloud: (batch, token, dim), positions -> (batch, 1, dim)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_pointcloud.networks.edgeconv import SLOPE, EdgeConv
from pt_pointcloud.networks.head import Norm
from pt_pointcloud.networks.transformer import Block


class MaxToken(nn.Module):
    """Conv1d 1x1 without bias - BN - LeakyReLU(0.2) - max over the tokens. Parameters: in * dim + 2 dim."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Linear(width, dim, bias=False)
        self.norm = Norm(dim)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(tokens)), SLOPE).amax(1, keepdim=True)


class DGCNN(nn.Module):
    """`layers` EdgeConvs in sequence, each on the output of the one before with neighbours of its own; their outputs, concatenated,
    through `MaxToken`.

    Parameters: layers (2 C C + 2 C) + layers C C + 2 C; 1,330,176 for three layers and C = 384.
    """

    def __init__(self, dim: int, k: int = 20, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EdgeConv(dim, k) for _ in range(layers))
        self.fuse = MaxToken(layers * dim, dim)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        outputs = []
        for layer in self.layers:
            tokens = layer(tokens)
            outputs.append(tokens)
        fused: Tensor = self.fuse(torch.cat(outputs, -1))
        return fused


class TransformerPrompt(nn.Module):
    """One Transformer block on tokens + positions, then the max over the tokens. Parameters: 12 C C + 10 C (no qkv bias)."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.block = Block(dim, heads, drop_path)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        out: Tensor = self.block(tokens + positions)
        return out.amax(1, keepdim=True)


def build_prompt_module(name: str, dim: int, k: int, heads: int) -> nn.Module:
    """`dgcnn`, `dgcnn1`, `dgcnn2` (that many EdgeConv layers), `mlp` or `transformer`."""
    if name == "mlp":
        return MaxToken(dim, dim)
    if name == "transformer":
        return TransformerPrompt(dim, heads, 0.0)
    return DGCNN(dim, k, {"dgcnn": 3, "dgcnn1": 1, "dgcnn2": 2}[name])
