"""DVPT's gated bottleneck, and how consecutive blocks share one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class Bottleneck(nn.Module):
    """y = gate * (W_u act(W_d x) + b_u); the gate starts at 0. Parameters: d r + r + r e + e + 1, with e (default d) the output width."""

    def __init__(self, dim: int, latent: int, before: bool = False, outputs: int | None = None) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dim, latent), nn.Linear(latent, outputs or dim)
        self.gate = nn.Parameter(torch.zeros(()))
        self.before = before

    def squeeze(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., latent)."""
        return self.down(quick_gelu(x)) if self.before else quick_gelu(self.down(x))

    def expand(self, latent: Tensor) -> Tensor:
        return self.gate * self.up(latent)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.squeeze(x))


def group_blocks(dims: Sequence[int], size: int) -> list[int]:
    """Block -> group: `size` consecutive blocks of one width share a group; every stage starts a new one."""
    groups: list[int] = []
    inside = 0
    for layer, width in enumerate(dims):
        if layer == 0:
            groups.append(0)
            continue
        inside += 1
        if width != dims[layer - 1] or inside == size:
            inside = 0
        groups.append(groups[-1] + (inside == 0))
    return groups
