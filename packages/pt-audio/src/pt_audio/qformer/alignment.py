"""Stage 1 of APT: the Q-former learns from audio-caption pairs what the language model will need; no language model takes part.

With query outputs z_iq and text [CLS] outputs w_j, projected to 256 and L2-normalised, tau learned:
    ATC  s_ij = max_q <z_iq, w_j> / tau;  (CE(s, identity) + CE(s^T, identity)) / 2, label smoothing 0.1
    ATM  one negative per side, drawn from softmax(s) + 1e-4 with the diagonal zeroed; 3 B joint passes, a 2-way head averaged over queries
    LM   the caption as a decoder that continues the queries' keys and values, [DEC] first, label smoothing 0.1
Negatives come from the process's own batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pt_core.randomness import apart, current_rows, uniform
from torch import Tensor, nn
from torch.nn import functional as F

from pt_audio.qformer.aligner import Aligner, padded
from pt_audio.qformer.layers import EPS

SMOOTHING = 0.1
FLOOR = 1e-4
"""Added to the probabilities of negatives."""


class Alignment(nn.Module):
    """What only stage 1 needs. Parameters, with H and V of the Q-former and p = 256: two projections H p + p, matching head 2 H + 2,
    temperature 1, word head H^2 + H + 2 H + V (its output weights are the Q-former's embeddings)."""

    def __init__(self, hidden: int, vocabulary: int, width: int = 256, temperature: float = 0.07) -> None:
        super().__init__()
        self.audio_proj = nn.Linear(hidden, width)
        self.text_proj = nn.Linear(hidden, width)
        self.matching = nn.Linear(hidden, 2)
        self.temperature = nn.Parameter(torch.tensor(temperature))
        self.transform = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.word_bias = nn.Parameter(torch.zeros(vocabulary))

    def losses(
        self, aligner: Aligner, vectors: Tensor, captions: Sequence[Sequence[int]], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:  # fmt: skip
        """vectors (B, N, A) and B captions as ids -> the three losses."""
        ids, mask = padded(captions, vectors.device)
        audio = aligner.ln_audio(vectors)
        queries = aligner.queries.expand(len(vectors), -1, -1)
        seen = aligner.qformer(queries, audio=audio)
        with apart("text"):  # every pass has draws of its own
            said = aligner.qformer(None, ids, mask)
        z = F.normalize(self.audio_proj(seen.queries), dim=-1)
        w = F.normalize(self.text_proj(said.text[:, 0]), dim=-1)
        similarity = similarities(z, w) / self.temperature
        found = {"atc": contrastive(similarity)}
        negative_audio, negative_text = negatives(similarity.detach(), generator)
        with apart("joint"):
            joint = aligner.qformer(
                queries.repeat(3, 1, 1),
                torch.cat([ids, ids, ids[negative_text]]),
                torch.cat([mask, mask, mask[negative_text]]),
                torch.cat([audio, audio[negative_audio], audio]),
            )
        logits = self.matching(joint.queries).mean(1)
        right = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        right[: len(ids)] = 1
        found["atm"] = F.cross_entropy(logits, right)
        with apart("caption"):
            found["lm"] = self.caption_loss(aligner, seen.past, ids, mask)
        return found

    def caption_loss(
        self, aligner: Aligner, past: Sequence[tuple[Tensor, Tensor]], ids: Tensor, mask: Tensor
    ) -> Tensor:
        """Next-token cross-entropy of the captions behind the queries' keys and values."""
        assert aligner.qformer.word is not None
        start = torch.full_like(ids[:, :1], aligner.qformer.sizes.vocabulary - 1)  # [DEC] is the last row
        read = torch.cat([start, ids[:, 1:]], 1)
        hidden = aligner.qformer(None, read, mask, past=past, causal=True).text
        hidden = self.norm(F.gelu(self.transform(hidden)))
        logits = hidden @ aligner.qformer.word.weight.T + self.word_bias
        labels = ids.masked_fill(mask == 0, -100)[:, 1:]
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)


def similarities(z: Tensor, w: Tensor) -> Tensor:
    """z (B, queries, p), w (C, p), normalised -> (B, C): the best query decides."""
    return torch.einsum("bqp,cp->bcq", z, w).amax(-1)


def contrastive(similarity: Tensor) -> Tensor:
    """(B, B) -> both directions' cross-entropy against the diagonal, averaged."""
    diagonal = torch.arange(len(similarity), device=similarity.device)
    left = F.cross_entropy(similarity, diagonal, label_smoothing=SMOOTHING)
    right = F.cross_entropy(similarity.T, diagonal, label_smoothing=SMOOTHING)
    return (left + right) / 2


def negatives(similarity: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(B, B) audio x text -> (audio for every text, text for every audio), never the pair itself; drawn by the pair's key in a training
    step, else from `generator`."""
    chosen, rows = [], current_rows()
    for side, scores in (("audio", similarity.T), ("text", similarity)):
        weights = (scores.double().softmax(1) + FLOOR).fill_diagonal_(0)
        if rows is None or generator is not None:
            chosen.append(torch.multinomial(weights.float().cpu(), 1, generator=generator)[:, 0].to(scores.device))
            continue
        reach = weights.cumsum(1)  # the pair itself has no share, so no number falls on it
        level = uniform(rows.to(scores.device), (1,), f"negative {side}").double() * reach[:, -1:]
        chosen.append(torch.searchsorted(reach, level, right=True)[:, 0])
    return chosen[0], chosen[1]
