"""Where everything lies in the language model's input.

    [begin, a, q_1 .. q_m, text_1, a, q_1 .. q_m, text_2, ..., answer, end]

begin is first and occurs once; a is the learned indicator; m = queries per segment x segments of the clip (33 positions for a clip of one
segment and 32 queries). The loss is on the answer and the end token only. Rows are padded on the left of `begin` and on the right of the
end token, and positions count real tokens, so padding changes nothing.

What all rows of a batch share in front (a system text, the support set of an episode) can run once: `shared` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pt_core.bridges.answers import IGNORED
from torch import Tensor

from pt_audio.data.batches import AudioText, Element, Row

MIN_SHARED = 8
"""Positions from which on a shared beginning runs by itself."""
Parts = tuple[tuple[str, int], ...]
"""(kind, positions) in order; kinds: begin, indicator, audio, extra, text, answer."""


def parts(row: Row, per_segment: int, begin: bool, answer: int = 0, extra: int = 0) -> Parts:
    """The layout of a row. `per_segment` vectors stand for a segment, `extra` further vectors (pictures) behind the first clip's."""
    found: list[tuple[str, int]] = [("begin", 1)] if begin else []
    for number, element in enumerate(row.elements):
        found += [("indicator", 1), ("audio", per_segment * len(element.segments))]
        if extra and number == 0:
            found.append(("extra", extra))
        found.append(("text", len(element.tokens)))
    return (*found, ("answer", answer)) if answer else tuple(found)


def labels(layout: Parts, answer: Sequence[int]) -> list[int]:
    """One label per position: the answer's tokens and the end token, IGNORED everywhere else."""
    found: list[int] = []
    for kind, length in layout:
        found += list(answer) if kind == "answer" else [IGNORED] * length
    return found


@dataclass(frozen=True)
class Assembled:
    """A batch in the language model's space.

    Attributes:
        front: (1, tokens, dim) what all rows begin with, or None.
        embeds: (batch, tokens, dim), the rest, padded on the left (inputs) and on the right (answers).
        mask: (batch, tokens), 1 where a position is real.
        last: (batch, 1) id of the last text token of every row.
    """

    front: Tensor | None
    embeds: Tensor
    mask: Tensor
    last: Tensor


BlockKey = tuple[int, tuple[int, ...], tuple[int, ...]]
"""(clip, instruction, owner): what a block of audio vectors depends on; the owner is a record and the clip's place in it, or empty."""


def key(element: Element, instructed: bool = True, owner: tuple[int, ...] = ()) -> BlockKey:
    return element.clip, element.asked if instructed else (), owner


def shared(rows: Sequence[Row], instructed: bool) -> int:
    """How many leading elements all rows have in common (clip, instruction and text); the last element of a row is its own."""
    count = min(len(row.elements) for row in rows) - 1
    first = rows[0].elements
    for number in range(max(0, count)):
        same = all(
            key(row.elements[number], instructed) == key(first[number], instructed)
            and row.elements[number].tokens == first[number].tokens
            for row in rows
        )
        if not same:
            return number
    return max(0, count)


def assemble(
    inputs: AudioText,
    blocks: Mapping[BlockKey, Tensor],
    embed: Tensor,
    begin: Tensor | None,
    answers: Tensor | None,
    answer_embeds: Tensor | None,
    *,
    instructed: bool = True,
    share: bool = True,
    extra: Tensor | None = None,
    owned: bool = False,
) -> Assembled:
    """Put the blocks between the texts.

    Args:
        blocks: key -> (1 + vectors, dim) with the indicator in front.
        embed: (all text tokens of all rows in order, dim).
        begin: (dim,) or None.
        answers: (batch, answer) ids, IGNORED at padding; `answer_embeds` (batch, answer, dim) their vectors.
        share: split off what all rows begin with.
        extra: (batch, vectors, dim) further prompts (of pictures) behind every row's first block.
        owned: every record has blocks of its own, so rows share nothing.
    """
    pieces: list[list[Tensor]] = []
    lengths: list[int] = []
    position = 0
    may_share = share and len(inputs.rows) > 1 and extra is None and not owned
    common = shared(inputs.rows, instructed) if may_share else 0
    for number, row in enumerate(inputs.rows):
        line: list[Tensor] = [] if begin is None else [begin[None]]
        head = 0
        for place, element in enumerate(row.elements):
            line.append(blocks[key(element, instructed, (number, place) if owned else ())])
            if extra is not None and place == 0:
                line.append(extra[number])
            count = len(element.tokens)
            line.append(embed[position : position + count])
            position += count
            if place == common - 1:
                head = sum(len(part) for part in line)
        pieces.append(line)
        lengths.append(head)
    rows = [torch.cat(line) for line in pieces]
    head = lengths[0]
    front = None
    if head >= MIN_SHARED:
        front = rows[0][:head][None]
        rows = [row[head:] for row in rows]
    width = max(len(row) for row in rows)
    empty = [row.new_zeros(width - len(row), row.shape[1]) for row in rows]
    embeds = torch.stack([torch.cat([gap, row]) for gap, row in zip(empty, rows, strict=True)])
    mask = torch.stack(
        [torch.cat([torch.zeros(len(gap)), torch.ones(len(row))]) for gap, row in zip(empty, rows, strict=True)]
    )
    mask = mask.long().to(embeds.device)
    if answers is not None and answer_embeds is not None:
        embeds = torch.cat([embeds, answer_embeds.to(embeds.dtype)], 1)
        mask = torch.cat([mask, (answers != IGNORED).long()], 1)
    last = torch.tensor([[row.elements[-1].tokens[-1] if row.elements[-1].tokens else 0] for row in inputs.rows])
    return Assembled(front, embeds, mask, last.to(embeds.device))
