"""Labels of any form as targets: yes/no values with gaps, or names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError
from torch import Tensor


def binary_targets(values: Any, names: Sequence[str], where: str) -> Tensor:
    """(graph, task) in {-1, 0, +1} from 0/1 (or -1/1) values with nan for missing.

    Raises:
        DataError: a value that is none of these, as in regression data.
    """
    numbers = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    finite = numbers[~np.isnan(numbers)]
    signed = bool((finite == -1).any())
    allowed = (-1.0, 0.0, 1.0) if signed else (0.0, 1.0)
    wrong = finite[~np.isin(finite, allowed)]
    if len(wrong):
        raise DataError(
            f"{where} has the value {wrong[0]:g}; labels ({', '.join(names[:4])} ...) must be 0, 1 or missing (regression is "
            "not supported)"
        )
    target = np.nan_to_num(numbers) if signed else np.where(np.isnan(numbers), 0.0, 2 * numbers - 1)
    return torch.from_numpy(target.astype(np.float32))


def class_labels(values: Sequence[Any]) -> tuple[list[int], list[str]]:
    """(class index per graph, class names); names are sorted, as numbers where all are whole numbers."""
    texts = [f"{value:g}" if isinstance(value, (float, np.floating)) else str(value) for value in values]
    distinct = set(texts)
    try:
        names = sorted(distinct, key=int)
    except ValueError:
        names = sorted(distinct)
    position = {name: number for number, name in enumerate(names)}
    return [position[text] for text in texts], names
