"""Blocks of the Q-former: self-attention over queries and text, cross-attention of the queries, feed-forward networks for either."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pt_core.randomness import Dropout, current_rows, dropout, part_keys, sampled_by
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


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, purpose: str) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)), masked and with dropout p, times v; all (batch, heads, tokens, head_dim).

    What a position draws depends on its row's key, its head and its place only: texts are padded behind, so neither the number of tokens
    nor that of items may move it. Without dropout or keys it is torch's fused attention.
    """
    rows = current_rows()
    if p == 0 or rows is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    batch, heads, tokens, items = weights.shape
    passes = batch // len(rows)  # of the same rows, one behind the other
    device = weights.device
    place = torch.arange(tokens, device=device)[None, :] * heads + torch.arange(heads, device=device)[:, None]
    which = torch.arange(passes, device=device).repeat_interleave(len(rows))[:, None, None]
    keys = part_keys(rows.to(device).repeat(passes)[:, None, None], place * passes + which)
    with sampled_by(keys.flatten()):
        kept = dropout(weights.reshape(-1, items), p, True, purpose)
    return kept.view_as(weights) @ v


class Attention(nn.Module):
    """Multi-head attention with its residual and norm: norm(x + dropout(out(attend(x, source)))).

    Args:
        name: tells its draws from those of other layers.
    """

    def __init__(self, dim: int, heads: int, source: int, dropout: float, name: str) -> None:
        super().__init__()
        self.heads, self.name = heads, name
        self.dropout = Dropout(dropout, f"{name}/out")
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
        p = self.dropout.p if self.training else 0.0
        read = attend(self.split(self.query(x)), keys, values, mask, p, self.name)
        return self.norm(x + self.dropout(self.out(read.transpose(1, 2).flatten(2)))), own

    def weights(self, x: Tensor, source: Tensor) -> Tensor:
        """(batch, heads, tokens, items) attention weights without a mask, for inspection."""
        scores = self.split(self.query(x)) @ self.split(self.key(source)).transpose(2, 3)
        return (scores / (x.shape[2] // self.heads) ** 0.5).softmax(-1)


class FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int, dropout: float, name: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.dropout = Dropout(dropout, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, sizes: QFormerSizes, number: int, dropout: float) -> None:
        super().__init__()
        name, cross = f"qformer/{number}", number % sizes.cross_every == 0
        self.attention = Attention(sizes.dim, sizes.heads, sizes.dim, dropout, f"{name}/self")
        self.cross = Attention(sizes.dim, sizes.heads, sizes.audio, dropout, f"{name}/cross") if cross else None
        self.text = FeedForward(sizes.dim, sizes.inner, dropout, f"{name}/text") if sizes.vocabulary else None
        self.queries = FeedForward(sizes.dim, sizes.inner, dropout, f"{name}/queries")

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
