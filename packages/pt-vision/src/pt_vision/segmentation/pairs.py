"""A micro-batch of self-training: source images beside target images, and what a step's losses need to know of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pt_core.data import Batch
from pt_core.stage import StepContext
from torch import Tensor


@dataclass
class Pairs:
    """n source images, each beside a target image, and the teacher's labels of the latter.

    Attributes:
        rows: of the source images in their data.
        images, labels: source crops (n, 3, C, C) and their classes (n, C, C).
        target: target crops (n, 3, C, C).
        slot: the stream that they were drawn from.
        box: (n, 4) corner of every target crop and size of its frame, where that is known.
        keys, target_keys: (n,) of what is drawn for source (and mixed) images, and for target images.
        pseudo: (n, C, C) the teacher's labels of the target.
        sure: (n,) share of pixels that the teacher is sure of.
        cells: (n, row, column) True on feature cells of things; None where their features are free.
    """

    rows: list[int]
    images: Tensor
    labels: Tensor
    target: Tensor
    slot: str
    box: Tensor | None
    keys: Tensor
    target_keys: Tensor
    pseudo: Tensor
    sure: Tensor
    cells: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def within(self, rows: frozenset[int]) -> list[int]:
        """Places of the pairs whose source image is one of `rows`."""
        return [place for place, row in enumerate(self.rows) if row in rows]


def paired(part: Mapping[str, Batch]) -> Pairs | None:
    """The pairs of a micro-batch, not labelled yet; None where it has no source or no target image."""
    source = part.get("source")
    slot = next((name for name in part if name != "source"), "")
    if source is None or not slot:
        return None
    target, n = part[slot], min(len(source), len(part[slot]))
    assert source.keys is not None
    assert target.keys is not None
    box, rows = target.extra.get("box"), source.index[:n].tolist()
    return Pairs(
        rows,
        source.inputs[:n],
        source.target[:n],
        target.inputs[:n],
        slot,
        None if box is None else box[:n],
        source.keys[:n],
        target.keys[:n],
        source.target[:n],
        source.inputs.new_zeros(n),
    )


@dataclass(frozen=True)
class Whole:
    """A step over all its micro-batches and processes.

    Attributes:
        pairs: how many.
        q: the mean share of pixels that the teacher is sure of.
        cells: feature cells of things.
        calls: how many losses are back-propagated.
        half: rows of the source images in the first half.
        classes: (class,) values of all source masks, the ignore value among them; None where nobody asks.
    """

    pairs: int
    q: Tensor
    cells: Tensor
    calls: Tensor
    half: frozenset[int]
    classes: Tensor | None

    @classmethod
    def of(cls, pairs: Sequence[Pairs], masked: str, classes: bool, ctx: StepContext) -> Whole:
        """Over this process's `pairs` and those of the others.

        Args:
            masked: which images are masked: `source_target`, the first half of both; `target`, all of those; `none`.
            classes: whether `classes` is asked for.
        """
        rows = ctx.gather([row for one in pairs for row in one.rows])
        half = frozenset(rows[: max(1, len(rows) // 2)])
        calls = sum(2 + (masked == "target" or (masked != "none" and bool(one.within(half)))) for one in pairs)
        zero = torch.zeros((), device=ctx.device)
        sure = sum((one.sure.sum() for one in pairs), zero)
        cells = sum((one.cells.sum() for one in pairs if one.cells is not None), zero)
        sure, cells, count = ctx.reduce(torch.stack([sure, cells, zero + calls]))
        seen = {value for one in pairs for value in one.labels.unique().tolist()} if classes else set()
        everything = torch.tensor(sorted(set(ctx.gather(sorted(seen)))), device=ctx.device) if classes else None
        return cls(len(rows), sure / max(1, len(rows)), cells, count, half, everything)
