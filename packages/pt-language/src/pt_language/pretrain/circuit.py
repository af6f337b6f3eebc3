"""Initial values of the built-in model: a circuit that compares texts by their words and copies the answer of the one that fits.

With a few million tokens of training, a tiny transformer that starts from random values does not come to learn in context (it takes
far more; Chan et al., arXiv 2205.05055, and Reddy, arXiv 2312.03002, describe the long plateau). So the parts are put in place, and
training makes all of them better. (Structured initial attention speeds up learning to recall: Trockman and Kolter, arXiv 2305.09828.)

Layout of the residual stream of width d:

    0            1, for every token
    1 .. h-3     word vector: leading singular vectors of the tokens' positive pointwise mutual information (h = d / 2)
    h-2          rarity: (-log frequency - 8) / 8; words of templates count as frequent
    h-1          mark of words such as "output" (the output tie is to these entries only, so they stay small)
    h .. d-2     what the tokens before are about (written by block 1)
    d-1          "the token two places back is marked": here stands an answer (written by block 1)

- Block 1, heads 0 and 1: word vectors averaged over about 20 tokens before, rare tokens weigh more (a soft form of tf-idf).
  Head 2: looks two tokens back and copies the mark.
- Block 2: all heads compare averages with those of marked positions, on dimensions that rotate slowly, and copy the word vector found
  there, which is the label's.
- Everything else (MLPs, block 3, head 3 of block 1) starts from the library's random values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 10
"""Tokens to the left and right that count as neighbours of a token."""
BACK = (8.0, 6.0)
"""Distance at which the two averaging heads look most."""
NEAR = ({0.1: 3.0, 0.0316: 4.0}, {0.316: 1.0, 0.1: 3.0, 0.0316: 4.0})
"""Their windows: rotation per token -> height of the cosine in the attention's logit."""
RARE = 0.5
"""A token weighs (1 / frequency) to this power in the averages."""
AVERAGE, COMPARE, COPY = 0.9, 1.8, 0.25
"""Gains of the three steps; they were chosen by the accuracy of the untrained circuit."""


def word_vectors(documents: np.ndarray[Any, Any], vocabulary: int, dims: int, seed: int) -> Tensor:
    """(V, dims) unit vectors of tokens from their neighbours in `documents` (token ids; 0 ends a text)."""
    together = np.zeros((vocabulary, vocabulary), dtype=np.float32)
    part = np.cumsum(documents == 0)
    for distance in range(1, REACH + 1):
        left, right = documents[:-distance], documents[distance:]
        same = (part[:-distance] == part[distance:]) & (left > 0) & (right > 0)
        np.add.at(together, (left[same], right[same]), 1.0)
    together += together.T
    total = together.sum(1) + 1e-6
    smooth = total**0.75
    with np.errstate(divide="ignore"):
        information = np.log(together / (total[:, None] * (smooth / smooth.sum())[None]))
    torch.manual_seed(seed)
    found, strength, _ = torch.svd_lowrank(torch.from_numpy(np.maximum(information, 0.0)), q=dims + 8, niter=3)
    return F.normalize(found[:, :dims] * strength[:dims].sqrt(), dim=1)


def rarities(documents: np.ndarray[Any, Any], vocabulary: int) -> Tensor:
    """(V,) negative log-frequencies of tokens."""
    counts = np.bincount(documents, minlength=vocabulary) + 1.0
    return torch.from_numpy(-np.log(counts / counts.sum())).float()


@torch.no_grad()
def start(
    model: Any, documents: np.ndarray[Any, Any], marked: Sequence[int], frequent: Sequence[int], seed: int
) -> None:
    """Put the circuit into a Llama of at least two blocks and three heads per block.

    Args:
        documents: token ids of the texts, 0 behind each.
        marked: tokens whose second next token is an answer.
        frequent: tokens of templates, which carry no topic.
    """
    random_ = torch.Generator().manual_seed(seed)
    width, heads, size = model.config.hidden_size, model.config.num_attention_heads, model.config.head_dim
    half, planes = width // 2, size // 2
    theta = model.config.rope_parameters["rope_theta"] ** (-torch.arange(planes) / planes)
    words, rare, mark = slice(1, half - 2), half - 2, half - 1
    averages, answer = slice(half, width - 1), width - 1
    count, room = words.stop - words.start, averages.stop - averages.start

    def projection(rows: int, columns: int) -> Tensor:
        most = max(rows, columns)
        return torch.linalg.qr(torch.randn(most, most, generator=random_))[0][:rows, :columns]

    embedding = model.get_input_embeddings().weight
    embedding.zero_()
    embedding[:, 0] = 1.0
    embedding[:, words] = word_vectors(documents, len(embedding), count, seed)
    embedding[:, rare] = rarities(documents, len(embedding)) / 8 - 1
    embedding[list(frequent), rare] = -0.8
    embedding[list(marked), mark] = 0.3

    root, scale = size**0.5, (width / 2) ** 0.5  # behind block 1's norm the stream is `scale` times as long as here
    first, second = (block.self_attn for block in list(model.model.layers)[:2])
    for block in (first, second):
        for weight in (block.q_proj.weight, block.k_proj.weight, block.v_proj.weight, block.o_proj.weight):
            weight.zero_()

    def look(head: int, back: float, strengths: dict[float, float]) -> range:
        """Logits sum_p strength_p cos(theta_p (distance - back)); returns the head's rows."""
        rows = range(head * size, (head + 1) * size)
        for speed, strength in strengths.items():
            plane = int((theta.log() - math.log(speed)).abs().argmin())
            entry, angle = (strength * root) ** 0.5 / scale, float(back * theta[plane])
            first.q_proj.weight[rows[plane], 0] = entry * math.cos(angle)
            first.q_proj.weight[rows[plane + planes], 0] = -entry * math.sin(angle)
            first.k_proj.weight[rows[plane], 0] = entry
        return rows

    mix = projection(room, count)
    for head in range(2):
        rows = look(head, BACK[head], NEAR[head])
        first.q_proj.weight[rows[planes - 1], 0] = (RARE * root) ** 0.5 / scale
        first.k_proj.weight[rows[planes - 1], rare] = (RARE * root) ** 0.5 * 8 / scale
        chosen = mix[head::2]
        first.v_proj.weight[list(rows[: len(chosen)]), words] = chosen
        for number in range(len(chosen)):
            first.o_proj.weight[half + head + 2 * number, rows[number]] = AVERAGE
    rows = look(2, 2.0, {float(speed): 9.0 for speed in theta[: planes // 4]})
    first.v_proj.weight[rows[0], mark] = 1.0
    first.o_proj.weight[answer, rows[0]] = 1.0 / (0.3 * scale)

    slow = [plane for plane in range(planes) if theta[plane] < 2e-3][:-1]
    for head in range(heads):
        rows = range(head * size, (head + 1) * size)
        entries = [rows[p] for p in slow] + [rows[p + planes] for p in slow]
        compare = COMPARE * projection(room, room)[: len(entries)]
        second.q_proj.weight[entries[: len(compare)], averages] = compare
        second.k_proj.weight[entries[: len(compare)], averages] = compare
        second.q_proj.weight[rows[planes - 1], 0] = 2.0
        second.k_proj.weight[rows[planes - 1], answer] = 8.0
        for number in range(min(count, size)):
            second.v_proj.weight[rows[number], words.start + number] = 1.0
            second.o_proj.weight[words.start + number, rows[number]] = COPY
