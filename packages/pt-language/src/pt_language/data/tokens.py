"""Tokenised rows and their batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pt_core.bridges.answers import IGNORED
from pt_core.data import Batch
from torch import Tensor

from pt_language.data.templates import SEPARATOR, Tokens

EMPTY = Tokens((), ())


@dataclass(frozen=True)
class TextSample:
    """A tokenised row.

    Attributes:
        source: everything before the answer, without special tokens around it.
        answer: the answer's tokens without an end token; None where the row has none.
        label: class index, or None.
        others: further answers that are as right; metrics accept them.
    """

    source: Tokens
    answer: Tokens | None
    label: int | None
    others: tuple[Tokens, ...] = ()


class Rows(Protocol):
    """What tokens are made of: named rows with labels."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int] | None: ...

    def identity(self) -> str: ...


class TokenDataset:
    """Tokenised rows. Batches pad texts on the left and answers on the right, so that every text ends where its answer begins. Special
    tokens (`begin`, `close`) are put around every text.

    `batch.inputs`: ids, mask, roles (batch, text). `batch.extra["answer"]`: (batch, answer) ids, padded by IGNORED, with the end token
    where answers are free text. `batch.target`: class indices, or the answer ids. `batch.extra["others"]`, where a row has further answers:
    (batch, other, answer) ids, padded by IGNORED.
    """

    augmented = False

    def __init__(
        self, samples: Sequence[TextSample], base: Rows, end: int | None, closed: bool,
        begin: Sequence[int] = (), close: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.samples, self.base, self.end, self.closed = samples, base, end, closed
        self.begin, self.close = tuple(begin), tuple(close)
        self.ids, self.labels = base.ids, base.labels

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> TextSample:
        return self.samples[index]

    def whole(self, source: Tokens) -> Tokens:
        """A text with the special tokens around it; one that brings them itself, in its template, gets them once."""
        begin = self.begin[: len(opened(self.begin, source.ids)) - len(source.ids)]
        close = () if self.close and source.ids[-len(self.close) :] == self.close else self.close
        return Tokens(begin, (SEPARATOR,) * len(begin)) + source + Tokens(close, (SEPARATOR,) * len(close))

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        sources = [self.whole(sample.source) for sample in samples]
        ids, mask = pad([source.ids for source in sources], left=True)
        roles, _ = pad([source.roles for source in sources], left=True)
        inputs = {"ids": ids, "mask": mask, "roles": roles}
        extra: dict[str, Any] = {}
        target: Tensor | None = None
        if all(sample.answer is not None for sample in samples):
            tail = () if self.closed or self.end is None else (self.end,)
            answer, real = pad([(*sample.answer.ids, *tail) for sample in samples], left=False)
            extra["answer"] = target = answer.masked_fill(real == 0, IGNORED)
        most = max(len(sample.others) for sample in samples)
        if most:
            lines = [
                other.ids for sample in samples for other in (*sample.others, *[EMPTY] * (most - len(sample.others)))
            ]
            others, real = pad(lines, left=False)
            extra["others"] = others.masked_fill(real == 0, IGNORED).unflatten(0, (len(samples), most))
        if samples[0].label is not None:
            target = torch.tensor([sample.label for sample in samples])
        rows = torch.tensor(list(index), dtype=torch.long)
        return Batch(inputs, target, rows, [self.ids[i] for i in index], extra)

    def identity(self) -> str:
        return self.base.identity()

    def longest(self, text: bool = True, answer: bool = True) -> tuple[int, str]:
        """(tokens, id) of the longest row, answer and end included."""
        sizes = [
            (len(self.whole(s.source)) if text else 0) + (len(s.answer) + 1 if answer and s.answer is not None else 0)
            for s in self.samples
        ]
        row = max(range(len(sizes)), key=sizes.__getitem__)
        return sizes[row], self.ids[row]


def token_batch(ids: Tensor, mask: Tensor | None = None) -> Batch:
    """Token ids (batch, tokens) of one's own as an unlabelled batch; padding on either side is moved to the left, where batches have it."""
    mask = torch.ones_like(ids) if mask is None else mask.long()
    order = mask.argsort(dim=1, stable=True)
    rows = torch.arange(len(ids), device=ids.device)
    inputs = {"ids": ids.gather(1, order), "mask": mask.gather(1, order)}
    return Batch(inputs, None, rows, [str(row) for row in range(len(ids))])


def pad(rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
    """(values, mask), both (rows, longest); padding has value and mask 0."""
    width = max(len(row) for row in rows)
    values = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        values[number, place] = torch.tensor(list(row), dtype=torch.long)
        mask[number, place] = 1
    return values, mask


def opened(begin: Sequence[int], ids: Sequence[int]) -> list[int]:
    """A text's tokens with the special tokens that it begins with, which may be there already."""
    return [*ids] if tuple(ids[: len(begin)]) == tuple(begin) else [*begin, *ids]


def headless(inputs: Mapping[str, Tensor], begin: Sequence[int]) -> Mapping[str, Tensor]:
    """The same texts without the special tokens that they begin with: something else stands in front of them, and begins so itself."""
    ids, mask = inputs["ids"], inputs["mask"]
    count = len(begin)
    if not count or ids.shape[1] < count:
        return inputs
    place = mask.long().argmax(1)[:, None] + torch.arange(count, device=ids.device)
    same = ids.gather(1, place.clamp(max=ids.shape[1] - 1)) == torch.tensor(list(begin), device=ids.device)
    left = torch.zeros_like(mask).scatter(
        1, place.clamp(max=ids.shape[1] - 1), same.all(1, keepdim=True).expand(-1, count).to(mask.dtype)
    )
    return {**inputs, "mask": mask * (1 - left)}
