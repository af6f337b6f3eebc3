"""Class names as rows of tokens with places for learned ones, and where in a row everything lies.

Axes: class c, place l (a token of a row), context m (a learned token), dim d, set g (one context per sample; 1 where all share it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pt_core.backbone import Insert
from pt_core.errors import UserError
from torch import Tensor

from pt_vision.networks.clip.tokens import Framing, IntArray

Place = Literal["end", "middle", "front"]


@dataclass(frozen=True)
class Context(Insert):
    """Learned tokens in a text: (m, d) shared by the classes, (c, m, d) one set per class, (sample, 1 | c, m, d) one per sample.

    Attributes:
        place: where the class name stands: at the `end` behind the context, in its `middle`, or at its `front`.
    """

    place: Place = "end"


@dataclass(frozen=True)
class Rows:
    """ids (c, l), and places (c, m) of the context in them; arrays, since they are looked at wherever
    the network is."""

    ids: IntArray
    places: IntArray


def rows_of(framing: Framing, names: Sequence[str], template: str, context: int, place: Place, source: str) -> Rows:
    """Rows of names in a template, with `context` places behind the head; nothing is ever cut.

    Raises:
        UserError: a row that is too long (with the longest context that fits), a template without `{}`, or a name that cannot be told from
            what follows it.
    """
    if template.count("{}") != 1:
        raise UserError(f"template {template!r} needs the class name's place, {{}}, once")
    bodies: list[list[int]] = []
    places: list[list[int]] = []
    head = len(framing.head)
    for name in names:
        body = framing.tokens(template.replace("{}", name))
        before = context if place == "end" else context // 2 if place == "middle" else 0
        after = context - before
        size = _name_size(framing, name, template, body) if after else 0
        bodies.append([framing.filler] * before + body[:size] + [framing.filler] * after + body[size:])
        start = head + before + size
        places.append([*range(head, head + before), *range(start, start + after)])
    longest = max(range(len(bodies)), key=lambda row: len(bodies[row]))
    over = len(bodies[longest]) - framing.room
    if over > 0:
        fits = context - over
        way = (
            f"the longest context that fits is {fits}" if context and fits >= 0 else "shorten its name or the template"
        )
        raise UserError(
            f"class {names[longest]!r} in {template!r} with a context of {context} needs {len(bodies[longest])} tokens, "
            f"{source!r} has room for {framing.room}: {way}"
        )
    return Rows(framing.rows(bodies), np.asarray(places, dtype=np.int64).reshape(len(names), context))


def _name_size(framing: Framing, name: str, template: str, body: list[int]) -> int:
    """Tokens of the class name at the beginning of a row."""
    own = framing.tokens(name)
    if not template.startswith("{}"):
        raise UserError(
            f"context behind the class name needs a template that starts with it, such as '{{}}.'; not {template!r}"
        )
    if body[: len(own)] != own:
        raise UserError(
            f"class {name!r} runs into what follows it in {template!r}; put the name at the end of the context"
        )
    return len(own)


def sets_of(tokens: Tensor, classes: int, dim: int, site: str) -> Tensor:
    """Context tokens as (g, 1 | c, m, d)."""
    shaped = tokens[None, None] if tokens.ndim == 2 else tokens[None] if tokens.ndim == 3 else tokens
    if shaped.ndim != 4 or shaped.shape[1] not in (1, classes) or shaped.shape[3] != dim:
        raise UserError(
            f"{site!r} takes context tokens (m, {dim}), ({classes}, m, {dim}) or (sample, 1 | {classes}, m, {dim}), "
            f"got {tuple(tokens.shape)}"
        )
    return shaped


def common_start(rows: Rows, per_class: bool) -> int:
    """Places at the beginning that are the same in all rows; a context of its own for every class ends them."""
    keys = rows.ids.copy()
    count = rows.places.shape[1]
    np.put_along_axis(keys, rows.places, np.broadcast_to(-1 - np.arange(count), rows.places.shape), 1)
    same = (keys == keys[:1]).all(0)
    if per_class and count:
        same[int(rows.places.min()) :] = False
    return int(same.astype(np.int64).cumprod().sum())


def placed(hidden: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """hidden (rows, l, d) with tokens (rows | 1, m, d) at places (rows | 1, m)."""
    rows, count, dim = len(hidden), tokens.shape[1], hidden.shape[2]
    index = places.expand(rows, count)[..., None].expand(rows, count, dim)
    return hidden.scatter(1, index, tokens.expand(rows, count, dim).to(hidden.dtype))
