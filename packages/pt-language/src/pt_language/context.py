"""A context of labelled examples in one token sequence, with CPT's type codes: what in-context learning and CPT put before a query.

Example i (from 0) has the codes of its token roles plus 4 i (separator and end tokens keep 0), so `code mod 4` tells the role (1 input
template, 2 input, 3 output template, 0 label) and `ceil(code / 4)` the example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pt_core.data import generator
from pt_core.errors import DataError
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """ids and type codes (L,) of a context."""

    ids: Tensor
    codes: Tensor


def shifted(roles: Tensor, by: Tensor | int) -> Tensor:
    """Roles with `by` added where they are not 0; the given tensor stays as it is."""
    return torch.where(roles > 0, roles + by, roles)


def check_codes(ids: Tensor, codes: Tensor) -> None:
    """Refuse contexts whose labels could not be told from templates.

    Raises:
        ValueError: other lengths, negative or falling codes, or a last example without labels (its code must be a multiple of 4).
    """
    if ids.shape != codes.shape or ids.ndim != 1:
        raise ValueError(f"ids {tuple(ids.shape)} and type codes {tuple(codes.shape)} must be two lists of one length")
    used = codes[codes > 0]
    if (codes < 0).any() or (used[1:] < used[:-1]).any():
        raise ValueError("type codes must be 0 or rise with the examples: 4 i + role for example i, roles 1 to 4")
    if len(used) == 0 or int(used.max()) % 4:
        highest = int(used.max()) if len(used) else 0
        raise ValueError(
            f"the last example has no label: the highest type code is {highest}, it must be a multiple of 4 (labels have 4 i + 4); "
            "otherwise a query's output template would be read as its label"
        )


def build_context(samples: Sequence[Any], end: int | None, begin: Sequence[int] = ()) -> Context:
    """Concatenate samples (of `TokenDataset`): source, answer, end token; `begin` stands once, in front of all.

    Raises:
        DataError: no samples, or one without an answer.
    """
    if not samples:
        raise DataError("a context needs at least one example")
    ids: list[int] = list(begin)
    codes: list[int] = [0] * len(ids)
    for number, sample in enumerate(samples):
        if sample.answer is None:
            raise DataError("a context needs examples with answers")
        roles = [*sample.source.roles, *sample.answer.roles]
        ids += [*sample.source.ids, *sample.answer.ids]
        codes += [role + 4 * number if role > 0 else 0 for role in roles]
        if end is not None:
            ids.append(end)
            codes.append(0)
    context = Context(torch.tensor(ids, dtype=torch.long), torch.tensor(codes, dtype=torch.long))
    check_codes(context.ids, context.codes)
    return context


def behind(context: Tensor, begin: tuple[int, ...]) -> tuple[int, ...]:
    """Special tokens that a text begins with behind a context: none where the context begins with them."""
    return () if begin and tuple(context[: len(begin)].tolist()) == begin else begin


def choose(dataset: Any, count: int | None, seed: int) -> list[int]:
    """Rows of the examples, in the order they are shown: all, or `count` of them spread evenly over the classes; shuffled."""
    order = torch.randperm(len(dataset), generator=generator(seed, "context")).tolist()
    if count is None or count >= len(order):
        return order
    if dataset.labels is None:
        return order[:count]
    by_class: dict[int, list[int]] = {}
    for row in order:
        by_class.setdefault(dataset.labels[row], []).append(row)
    chosen: list[int] = []
    while len(chosen) < count:
        for rows in by_class.values():
            if rows and len(chosen) < count:
                chosen.append(rows.pop(0))
    return [row for row in order if row in set(chosen)]
