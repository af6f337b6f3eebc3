"""Blocks of the Q-former: self-attention over queries and text, cross-attention of the queries, feed-forward networks for either."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-12
KeysValues = tuple[Tensor, Tensor]
"""(batch, heads, tokens, head_dim) keys and values of a layer."""


@dataclass(frozen=True)
class QFormerSizes:
    """Dimensions.

    Attributes:
        vocabulary: V, of the text embeddings ([DEC] included); 0 leaves out text embeddings and text feed-forward networks.
        dim, depth, heads, inner: H, layers, attention heads, I.
        audio: A, width of the audio vectors.
        cross_every: c; layers 0, c, 2c ... own a cross-attention.
        positions: longest text.
    """

    vocabulary: int
    dim: int
    depth: int
    heads: int
    inner: int
    audio: int
    cross_every: int = 2
    positions: int = 512

    def parameters(self) -> int:
        """The formula of the module's docstring."""
        h, v, i = self.dim, self.vocabulary, self.inner
        forward = (2 * h * i + i + h) + 2 * h
        embeddings = (v + self.positions) * h + 2 * h if v else 2 * h
        layer = 4 * (h * h + h) + 2 * h + forward * (2 if v else 1)
        cross = 2 * (h * h + h) + 2 * (self.audio * h + h) + 2 * h
        return embeddings + self.depth * layer + -(-self.depth // self.cross_every) * cross


class Attention(nn.Module):
    """Multi-head attention with its residual and norm: norm(x + dropout(out(attend(x, source))))."""

    def __init__(self, dim: int, heads: int, source: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source, dim)
        self.value = nn.Linear(source, dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def split(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> (batch, heads, tokens, head_dim)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(
        self, x: Tensor, source: Tensor, mask: Tensor | None = None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x (batch, tokens, dim) reads source (batch, items, source); mask (batch | 1, 1, tokens, past + items) is True where it may
        look; `past` are keys and values in front. Returns the output, and the keys and values of `source`."""
        keys, values = self.split(self.key(source)), self.split(self.value(source))
        own = (keys, values)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        drop = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(self.split(self.query(x)), keys, values, attn_mask=mask, dropout_p=drop)
        read = self.out(read.transpose(1, 2).flatten(2))
        return self.norm(x + F.dropout(read, self.dropout, self.training)), own

    def weights(self, x: Tensor, source: Tensor) -> Tensor:
        """(batch, heads, tokens, items) attention weights without a mask, for inspection."""
        scores = self.split(self.query(x)) @ self.split(self.key(source)).transpose(2, 3)
        return (scores / (x.shape[2] // self.heads) ** 0.5).softmax(-1)


class FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + F.dropout(self.fc2(F.gelu(self.fc1(x))), self.dropout, self.training))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, sizes: QFormerSizes, cross: bool, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(sizes.dim, sizes.heads, sizes.dim, dropout)
        self.cross = Attention(sizes.dim, sizes.heads, sizes.audio, dropout) if cross else None
        self.text = FeedForward(sizes.dim, sizes.inner, dropout) if sizes.vocabulary else None
        self.queries = FeedForward(sizes.dim, sizes.inner, dropout)

    def forward(
        self, x: Tensor, queries: int, mask: Tensor | None, audio: Tensor | None, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """x = [queries, text]; only the first `queries` positions read the audio."""
        x, own = self.attention(x, x, mask, past)
        asked, told = x[:, :queries], x[:, queries:]
        if queries:
            if self.cross is not None and audio is not None:
                asked, _ = self.cross(asked, audio)
            asked = self.queries(asked)
        if told.shape[1]:
            assert self.text is not None, "text was disabled"
            told = self.text(told)
        return torch.cat([asked, told], 1), own
