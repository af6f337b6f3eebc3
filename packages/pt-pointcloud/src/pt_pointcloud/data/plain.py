"""What a wrapped network is called with, where clouds have parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pt_core.data import Batch
from torch import Tensor


def labelled_points(inputs: Sequence[Any], named: Mapping[str, Any]) -> Batch:
    """Points (batch, point, 3) and the category of every cloud (batch,), as an unlabelled batch.

    Raises:
        TypeError: something else.
    """
    given = {**dict(zip(("points", "category"), inputs, strict=False)), **named}
    plain = len(inputs) + len(named) == 2 and set(given) == {"points", "category"}
    if not plain or not all(isinstance(value, Tensor) for value in given.values()):
        raise TypeError("part segmentation takes points (batch, point, 3) and category (batch,)")
    rows = torch.arange(len(given["points"]), device=given["points"].device)
    return Batch(given, None, rows, [str(row) for row in range(len(rows))])
