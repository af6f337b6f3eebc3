"""Sequences of tokens: prompts put into them, and segments taken out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pt_core.backbone import Layout
from pt_core.errors import UserError
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """Prompt tokens at one block: (1 | batch, prompt, dim), or (tenants, prompt, dim) with `index` (batch,)."""

    tokens: Tensor
    at: Literal["after_prefix", "front"] = "after_prefix"
    index: Tensor | None = None

    def per_row(self, batch: int) -> Tensor:
        """(batch, prompt, dim)."""
        return gather_rows(self.tokens, self.index, batch)


def gather_rows(x: Tensor, index: Tensor | None, batch: int) -> Tensor:
    """(1 | batch | tenants, ...) -> (batch, ...)."""
    if index is not None:
        return x.index_select(0, index)
    return x.expand(batch, *x.shape[1:])


def insert_kept(site: str, hidden: Tensor, layout: Layout, prompt: Prompt, prefix: bool) -> tuple[Tensor, Layout]:
    if layout.count("prompt"):
        raise UserError(
            f"{site!r}: {layout.count('prompt')} kept prompts are in the sequence already; "
            "insert kept prompts once per call (a Replace edit can overwrite them)"
        )
    kinds = [kind for kind, _ in layout.segments]
    place = 0 if prompt.at == "front" or not prefix else kinds.index("token")
    start = sum(length for _, length in layout.segments[:place])
    rows = prompt.per_row(hidden.shape[0])
    segments = (*layout.segments[:place], ("prompt", rows.shape[1]), *layout.segments[place:])
    return torch.cat([hidden[:, :start], rows, hidden[:, start:]], dim=1), Layout(segments, layout.grid)


def concatenate(hidden: Tensor, layout: Layout, prompts: Sequence[Prompt]) -> tuple[Tensor, list[slice]]:
    """Put prompts into the sequence; returns it and where the former tokens lie."""
    batch = hidden.shape[0]
    front = [p.per_row(batch) for p in prompts if p.at == "front"]
    inner = [p.per_row(batch) for p in prompts if p.at != "front"]
    kinds = [kind for kind, _ in layout.segments]
    start = sum(length for _, length in layout.segments[: kinds.index("token")])
    joined = torch.cat([*front, hidden[:, :start], *inner, hidden[:, start:]], dim=1)
    first = sum(x.shape[1] for x in front)
    second = first + start + sum(x.shape[1] for x in inner)
    own = [slice(first, first + start), slice(second, joined.shape[1])]
    return joined, [s for s in own if s.stop > s.start]


def narrow(x: Tensor, parts: Sequence[slice] | None) -> Tensor:
    """x[:, parts], a view where it is one slice."""
    if parts is None:
        return x
    return x[:, parts[0]] if len(parts) == 1 else torch.cat([x[:, part] for part in parts], dim=1)


def select(layout: Layout, read: Iterable[str], source: str) -> tuple[list[slice], Layout]:
    """The slices of the segments in `read`, neighbours joined, and the layout of what is left.

    Raises:
        UserError: none of them is in the sequence.
    """
    wanted = frozenset(read)
    segments = tuple((kind, length) for kind, length in layout.segments if kind in wanted and length)
    if not segments:
        have = ", ".join(kind for kind, _ in layout.segments)
        names = " or ".join(sorted(wanted))
        raise UserError(f"backbone {source!r} has no {names} tokens to read; the sequence holds: {have}")
    parts: list[slice] = []
    for kind, _ in segments:
        part = layout.slice(kind)
        if parts and parts[-1].stop == part.start:
            part = slice(parts.pop().start, part.stop)
        parts.append(part)
    return parts, Layout(segments, layout.grid if "token" in wanted else None)
