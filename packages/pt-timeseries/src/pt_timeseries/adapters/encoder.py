"""The patch Transformer that POND's card describes: channel-mixing patches, learned position codes, pre-norm blocks.

A series (n channels x L steps) becomes ceil(L / s) patches of p steps: it is extended at its end by repeating the last value (as PatchTST
does), so every stride starts one patch. A prompt of m steps is cut the same way by itself, so prompt and data never share a patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pt_timeseries.options import EncoderSizes


@dataclass(frozen=True)
class EncoderConfig(EncoderSizes):
    channels: Annotated[int, Ge(1), Le(65_536)] = 6
    """n, channels of the series."""
    length: Annotated[int, Ge(2), Le(10_000_000)] = 128
    """L, steps of a window."""
    stride: Annotated[int, Ge(1), Le(65_536)] = 8
    """s, steps between patches."""
    balance: Annotated[float, Gt(0)] = 0.01
    """Weight of the load-balancing loss of the experts in pre-training."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is not a multiple of heads={self.heads}")
        if self.stride > self.patch:
            raise ValueError(f"stride={self.stride} is larger than patch={self.patch}: steps in between would be lost")
        if self.patch > self.length:
            raise ValueError(f"patch={self.patch} is longer than length={self.length}")

    def tokens(self, length: int) -> int:
        """Patches of a series of `length` steps."""
        return math.ceil(length / self.stride)


def cut(series: Tensor, patch: int, stride: int) -> Tensor:
    """(batch, channel, step) -> (batch, ceil(step / stride), channel * patch); the end is extended by the last value."""
    missing = (math.ceil(series.shape[-1] / stride) - 1) * stride + patch - series.shape[-1]
    padded = F.pad(series, (0, missing), mode="replicate") if missing > 0 else series
    return padded.unfold(-1, patch, stride).transpose(1, 2).flatten(2)


def extended(series: Tensor, ends: Tensor) -> Tensor:
    """Series (batch, channel, step) that repeat their last value from `ends` (batch,) on, as `cut` does behind the last step."""
    steps = torch.arange(series.shape[-1], device=series.device)
    place = torch.minimum(steps, ends[:, None] - 1)
    return series.gather(-1, place[:, None].expand_as(series))


class Experts(nn.Module):
    """E feed-forward layers of which every token takes the one its router prefers, scaled by the router's probability."""

    def __init__(self, dim: int, hidden: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.router = nn.Linear(dim, experts)
        self.layers = nn.ModuleList(feed_forward(dim, hidden, dropout) for _ in range(experts))
        self.load = torch.zeros(())
        """Balancing loss of the last call: E * sum_e (share of tokens at e) * (mean probability of e); 1 when even."""

    def forward(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """(batch, token, dim) -> the same shape; `there` (batch, token) says which tokens count for the load."""
        flat = tokens.flatten(0, -2)
        weights = self.router(flat).softmax(-1)
        best, chosen = weights.max(-1)
        counted = slice(None) if there is None else there.flatten()
        share = F.one_hot(chosen[counted], len(self.layers)).to(weights).mean(0)
        self.load = len(self.layers) * (share * weights[counted].mean(0)).sum()
        out = torch.zeros_like(flat)
        for number, layer in enumerate(self.layers):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                out = out.index_add(0, rows, (layer(flat[rows]) * best[rows, None]).to(out.dtype))
        return out.view_as(tokens)


def feed_forward(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))


class Block(nn.Module):
    """h + attention(norm(h)), then h + feed_forward(norm(h))."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.qkv, self.proj = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, config.dim)
        self.mlp: nn.Module = (
            Experts(config.dim, config.hidden, config.experts, config.dropout)
            if config.experts
            else feed_forward(config.dim, config.hidden, config.dropout)
        )
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """(batch, token, dim): what the attention adds to the residual stream; it reads only tokens that are `there` (batch, token)."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(batch, count, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if there is None:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        return self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))

    def feed(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """(batch, token, dim): what the feed-forward layers add."""
        hidden = self.norm2(tokens)
        return self.dropout(
            self.mlp(hidden) if there is None or not isinstance(self.mlp, Experts) else self.mlp(hidden, there)
        )

    def forward(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attend(tokens, there)
        return tokens + self.feed(tokens, there)


class PatchEncoder(nn.Module):
    """f: (batch, n, L) -> (batch, ceil(L / s), d)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.channels * config.patch, config.dim)
        self.position = nn.Parameter(torch.empty(config.tokens(config.length), config.dim))
        if not self.position.is_meta:  # drawing there imports torch's compiler
            with torch.no_grad():
                self.position.normal_().mul_(0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)

    def patches(self, series: Tensor) -> Tensor:
        """(batch, n, steps) -> (batch, ceil(steps / s), d): embedded patches without position codes."""
        tokens: Tensor = self.embed(cut(series.to(self.embed.weight.dtype), self.config.patch, self.config.stride))
        return tokens

    def forward(self, series: Tensor) -> Tensor:
        tokens = self.patches(series)
        tokens = tokens + self.position[: tokens.shape[1]]
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
