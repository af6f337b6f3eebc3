"""The audio Transformer of Audio-MAE (Huang et al., NeurIPS 2022), in the layout of its published checkpoints.

spectrogram (B, T, F) -> Conv2d p x p, stride p -> (T/p) (F/p) patches, time-major -> + fixed positions, class token in front
    -> `depth` pre-norm blocks -> patch outputs without the final norm (what APT reads)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from pt_core.run.declare.fields import Depth, Heads, Width
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6
Size = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class ViTSizes:
    """Dimensions; the defaults are ViT-B/16 with the 527 classes of AudioSet."""

    frames: Size = 1024
    """T."""
    bins: Size = 128
    """F."""
    patch: Size = 16
    """p."""
    dim: Annotated[Width, Ge(4)] = 768
    depth: Depth = 12
    heads: Heads = 12
    ratio: Annotated[int, Ge(1)] = 4
    """MLP width / d."""
    classes: Annotated[int, Ge(0)] = 527
    """Outputs of the classification head (0: none)."""

    @property
    def grid(self) -> tuple[int, int]:
        """(time, frequency) patches."""
        return self.frames // self.patch, self.bins // self.patch


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """(1, 1 + time * frequency, dim) fixed sine-cosine table: half of the width for frequency, half for time; zeros for the class token."""

    def table(count: int, width: int) -> Tensor:
        omega = 1.0 / 10_000 ** (torch.arange(width // 2, dtype=torch.float64) / (width / 2))
        angle = torch.arange(count, dtype=torch.float64)[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], 1)

    time, frequency = grid
    along = table(time, dim // 2)[:, None].expand(-1, frequency, -1)
    across = table(frequency, dim // 2)[None].expand(time, -1, -1)
    rows = torch.cat([across, along], 2).reshape(time * frequency, dim)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), rows])[None].float()


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, patch, patch)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, T, F) -> (B, time * frequency, dim), time-major."""
        return self.proj(spectrogram[:, None]).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class AudioViT(nn.Module):
    """Parameters: patches p^2 d + d, class token d, blocks depth (12 d^2 + 13 d) at MLP ratio 4, norm 2 d, head (d + 1) classes; the
    positions are a fixed buffer. ViT-B/16 with 527 classes: 85,659,407. Norm and head are of the checkpoint and not used by prompts."""

    def __init__(self, sizes: ViTSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.patch_embed = PatchEmbed(sizes.patch, sizes.dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, sizes.dim) * 0.02)
        self.register_buffer("pos_embed", sincos_positions(sizes.grid, sizes.dim))
        self.blocks = nn.ModuleList(Block(sizes.dim, sizes.heads, sizes.ratio) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.dim, eps=EPS)
        self.head = nn.Linear(sizes.dim, sizes.classes) if sizes.classes else nn.Identity()

    def forward(self, spectrogram: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T, F) -> (B, patches, dim): outputs of the last block, no norm, class token dropped. `keep` (B, kept): patches to run."""
        positions: Tensor = self.pos_embed  # type: ignore[assignment]
        x = self.patch_embed(spectrogram) + positions[:, 1:]
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([(self.cls_token + positions[:, :1]).expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]

    def classify(self, patches: Tensor) -> Tensor:
        """(B, patches, dim) -> (B, classes): the head on the mean of the patches, as in the published fine-tuning."""
        return self.head(self.norm(patches.mean(1)))  # type: ignore[no-any-return]
