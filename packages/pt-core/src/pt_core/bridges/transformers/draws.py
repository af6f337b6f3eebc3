"""Dropout inside a model whose rows are padded: what a token draws belongs to its place in its own text.

How wide a batch is padded depends on its rows, so a mask drawn over the padded batch would change with how a batch is cut. Here a token's
key is made of its row's key (`pt_core.randomness`) and its place among the real tokens of that row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_core.randomness import current_rows, dropout, part_keys, sampled_by

_places: ContextVar[Tensor | None] = ContextVar("pt_core_places", default=None)


@contextmanager
def placed(places: Tensor | None) -> Iterator[None]:
    """Inside, token t of row r stands at places[r, t] of (row, tokens). None: tokens are where they stand, padding only behind them."""
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)


def current_places() -> Tensor | None:
    return _places.get()


class TokenDropout(nn.Module):
    """Dropout of (row, tokens, ...) or of all tokens of all rows one behind the other, (row * tokens, ...).

    Unlike nn.Dropout it does not follow `train()`: it sits in a frozen network, which stays in eval mode, and `on` says when it draws.

    Args:
        name: the draw's purpose; unique in the network.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p, self.name, self.on = p, name, False

    def forward(self, x: Tensor) -> Tensor:
        if not self.on or self.p == 0:
            return x
        rows = current_rows()
        if rows is None:
            return F.dropout(x, self.p, True)
        keys = token_keys(rows.to(x.device), x.shape[:2] if x.ndim > 2 else x.shape[:1])
        with sampled_by(keys):
            return dropout(x.reshape(len(keys), -1), self.p, True, self.name).view_as(x)

    def extra_repr(self) -> str:
        return f"p={self.p}, name={self.name!r}"


def token_keys(rows: Tensor, shape: torch.Size) -> Tensor:
    """(tokens of all rows,) keys for a tensor of this (row, tokens) or (row * tokens,) shape; a row may occur several times in a row
    (choices).

    Raises:
        ValueError: the tensor does not hold whole rows.
    """
    count = len(rows)
    if shape[0] % count:
        raise ValueError(f"a tensor of shape {tuple(shape)} does not hold the tokens of {count} rows")
    times, tokens = (1, shape[0] // count) if len(shape) == 1 else (shape[0] // count, shape[1])
    places = _places.get()
    if places is None:
        places = torch.arange(tokens, device=rows.device)[None]
    keys = rows
    if times > 1:
        keys = part_keys(rows.repeat_interleave(times), torch.arange(times, device=rows.device).repeat(count))
    if len(places) == count:
        places = places.repeat_interleave(times, 0)
    return part_keys(keys[:, None], places[:, places.shape[1] - tokens :]).flatten()
