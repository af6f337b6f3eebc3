"""The aligner of APT: encoder outputs and an instruction in, soft prompts of the language model out.

A (S, N, A_dim) -> LayerNorm -> Q-former([queries, instruction], audio) -> first 32 positions -> Linear(H, d)
block of a clip = [indicator; 32 vectors of segment 1; 32 of segment 2; ...]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pt_audio.qformer.layers import QFormerSizes
from pt_audio.qformer.network import QFormer


class Aligner(nn.Module):
    """Parameters: Q-former (see there), queries n_q H, ln_audio 2 A, llm_proj H d + d, indicator d. With BERT-mini, A = 768, d = 4096
    and 32 queries: 14,260,480 + 8,192 + 1,536 + 1,052,672 + 4,096 = 15,326,976.

    Args:
        sizes: of the Q-former (`vocabulary` 0: no instruction).
        queries: n_q.
        dim: d, width of the language model.
    """

    def __init__(self, sizes: QFormerSizes, queries: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, sizes.dim) * 0.02)
        self.qformer = QFormer(sizes, dropout)
        self.ln_audio = nn.LayerNorm(sizes.audio)
        self.llm_proj = nn.Linear(sizes.dim, dim)
        self.indicator = nn.Parameter(torch.randn(1, 1, dim) * 0.02)

    @property
    def instructed(self) -> bool:
        return self.qformer.sizes.vocabulary > 0

    def read(self, vectors: Tensor, ids: Tensor | None, mask: Tensor | None) -> Tensor:
        """vectors (S, N, A), ids and mask (S, text) -> (S, n_q, H)."""
        queries = self.queries.expand(len(vectors), -1, -1)
        if not self.instructed:
            ids = mask = None
        found: Tensor = self.qformer(queries, ids, mask, self.ln_audio(vectors)).queries
        return found

    def blocks(self, vectors: Tensor, counts: Sequence[int], asked: Sequence[Sequence[int]]) -> list[Tensor]:
        """Blocks [(1 + n_q * segments, d)] of clips.

        Args:
            vectors: (S, N, A), the segments of all clips one after another.
            counts: segments per clip; their sum is S.
            asked: the instruction of every clip, as ids; every segment reads it.
        """
        ids, mask = padded(asked, vectors.device)
        repeats = torch.tensor(list(counts), device=vectors.device)
        read = self.read(
            vectors, *(part.repeat_interleave(repeats, 0, output_size=sum(counts)) for part in (ids, mask))
        )
        prompts: Tensor = self.llm_proj(read)
        return [torch.cat([self.indicator[0], part.flatten(0, 1)]) for part in prompts.split(list(counts))]


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (rows, longest), padded on the right."""
    width = max(1, *(len(row) for row in rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(list(row), dtype=torch.long)
        mask[number, : len(row)] = 1
    return ids.to(device), mask.to(device)
