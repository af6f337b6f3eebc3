"""The Transformer of Point-MAE and Point-BERT, with the parameter names of their published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from pt_core.randomness import current_rows, dropout
from pt_core.run.declare.fields import Depth, Heads
from torch import Tensor, nn
from torch.nn import functional as F

from pt_pointcloud.options import Groups, Points

CLASS_TENSORS = ("cls_token", "cls_pos")
"""Names of the class token and its position."""


@dataclass(frozen=True)
class PointConfig:
    """Sizes; the defaults are Point-MAE's on ShapeNet and ModelNet. ScanObjectNN uses groups=128, points=2048."""

    points: Points = 1024
    groups: Groups = 64
    """G, patches per cloud: centres found by furthest point sampling."""
    group_size: Annotated[int, Ge(1)] = 32
    """M, points per patch: nearest neighbours of the centre, itself included."""
    dim: Annotated[int, Ge(1)] = 384
    """C, width of the tokens."""
    depth: Depth = 12
    heads: Heads = 6
    first: Annotated[int, Ge(1)] = 128
    """Hidden width of the patch encoder's first MLP, which ends at twice that; the second one's is four times that."""
    encoder_dim: Annotated[int, Ge(1)] | None = None
    """Width of the patch encoder's output, where it is mapped to C by `reduce_dim` (Point-BERT: 256); default C, without a map."""
    drop_path: Annotated[float, Ge(0)] = 0.1
    """Largest drop-path rate, reached in the last block; only active in train mode."""
    position: Annotated[int, Gt(0)] = 128
    """Hidden width of the position MLP."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is not a multiple of heads={self.heads}")
        if not self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} must be below 1")


class PatchEncoder(nn.Module):
    """A mini-PointNet over every patch: per-point MLP, max, concatenation with every point, MLP, max.

    forward: (batch, group, point, 3) -> (batch, group, channel).
    """

    def __init__(self, first: int, channels: int) -> None:
        super().__init__()
        inner = 2 * first
        self.first_conv = nn.Sequential(
            nn.Conv1d(3, first, 1), nn.BatchNorm1d(first), nn.ReLU(), nn.Conv1d(first, inner, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(2 * inner, 2 * inner, 1), nn.BatchNorm1d(2 * inner), nn.ReLU(), nn.Conv1d(2 * inner, channels, 1)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """The convolutions have kernel 1: they run as products over the last axis, and W [g, F] as W_g g + W_F F, so that the half
        which belongs to the whole patch is computed once per patch. Same values as the published order."""
        enter, norm, _, leave = self.first_conv
        local = _pointwise(leave, _normalise(norm, _pointwise(enter, patches)).relu())
        whole = local.max(2, keepdim=True).values
        enter, norm, _, leave = self.second_conv
        weight: Any = enter.weight
        bias: Any = enter.bias
        of_whole, of_point = weight[:, :, 0].chunk(2, 1)
        joint = F.linear(whole, of_whole, bias) + F.linear(local, of_point)
        out: Tensor = _pointwise(leave, _normalise(norm, joint).relu()).max(2).values
        return out


def _pointwise(conv: Any, x: Tensor) -> Tensor:
    """A Conv1d of kernel 1 on (..., channel)."""
    out: Tensor = F.linear(x, conv.weight[:, :, 0], conv.bias)
    return out


def _normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm over all but the last axis."""
    out: Tensor = norm(x.flatten(0, -2))
    return out.view_as(x)


class Attention(nn.Module):
    """Multi-head self-attention, qkv without bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, token, dim) -> q, k, v of (batch, head, token, head_dim)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def join(self, attended: Tensor) -> Tensor:
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.join(F.scaled_dot_product_attention(*self.split(x)))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """Drops a residual branch per sample and scales the kept ones, in train mode; in a training step of a method the draw belongs to the
    sample.

    Args:
        name: tells the draws of this block from those of others.
    """

    def __init__(self, rate: float, name: str = "") -> None:
        super().__init__()
        self.rate, self.name = rate, name

    def forward(self, x: Tensor, branch: str = "") -> Tensor:
        if not self.training or self.rate == 0:
            return x
        if current_rows() is not None:
            return x * dropout(x.new_ones(len(x), 1, 1), self.rate, True, f"drop path {self.name} {branch}")
        kept = torch.rand(len(x), 1, 1, device=x.device, dtype=x.dtype) >= self.rate
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """x + DP(Attn(LN x)); x + DP(MLP(LN x))."""

    def __init__(self, dim: int, heads: int, drop_path: float, name: str = "") -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)
        self.drop_path = DropPath(drop_path, name)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)), "attn")
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)), "mlp")
        return out


class Blocks(nn.Module):
    """Blocks in a row, the positions added before every one; named `blocks.blocks` in the checkpoints."""

    def __init__(self, dim: int, heads: int, depth: int, drop_path: float) -> None:
        super().__init__()
        rates = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, rate, f"block {number}") for number, rate in enumerate(rates))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x + positions)
        return x


def position_mlp(hidden: int, dim: int) -> nn.Sequential:
    """(..., 3) centres -> (..., dim)."""
    return nn.Sequential(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, dim))


class PointTransformer(nn.Module):
    """Patch encoder, position MLP, blocks and final norm; and a class token with its position.

    Point-MAE is pretrained without a class token: it is zero here then and `class_token_trained` is False. What runs these parts is
    `pt_pointcloud.networks.backbone.PointBackbone`.

    Parameters: with C = 384, L = 12: 21,825,024, and 2C = 768 of the class token and its position.
    """

    def __init__(self, config: PointConfig) -> None:
        super().__init__()
        self.config = config
        self.class_token_trained = False
        width = config.encoder_dim or config.dim
        self.encoder = PatchEncoder(config.first, width)
        self.reduce_dim = nn.Linear(width, config.dim) if config.encoder_dim else nn.Identity()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = position_mlp(config.position, config.dim)
        self.blocks = Blocks(config.dim, config.heads, config.depth, config.drop_path)
        self.norm = nn.LayerNorm(config.dim)

    def embed(self, patches: Tensor) -> Tensor:
        """(batch, group, point, 3) -> (batch, group, dim)."""
        tokens: Tensor = self.reduce_dim(self.encoder(patches))
        return tokens


def init_weights(module: nn.Module) -> None:
    """Point-MAE's initial values: N(0, 0.02) cut at two absolute units (timm's default bounds), zero biases."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d)):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
