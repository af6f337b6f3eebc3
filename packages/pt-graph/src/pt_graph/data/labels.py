"""Labels of any form as targets: yes/no values with gaps, or names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError
from torch import Tensor

MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "null"})
"""What stands in a cell without a label; capitals do not matter."""
MANY = 50
"""With more distinct whole numbers than this, several graphs of each are needed to take them for classes."""
PER_CLASS = 5


def missing(value: Any) -> bool:
    """Whether a cell says nothing."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, (float, np.floating)) and value != value)


def binary_targets(values: Any, names: Sequence[str], where: str) -> Tensor:
    """(graph, task) in {-1, 0, +1} from 0/1 (or -1/1) values with nan for missing.

    Raises:
        DataError: a value that is none of these, as in regression data, or another number of columns than of names.
    """
    numbers = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    if numbers.shape[1] != len(names):
        raise DataError(f"{where} has {numbers.shape[1]} columns of labels and {len(names)} names of them")
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


def class_labels(
    values: Sequence[Any], where: str, unit: str = "graph", numbers: Sequence[int] | None = None
) -> dict[str, Any]:
    """`labels`, `classes` and `doubt` of a GraphDataset. Names are sorted, as numbers where all are whole numbers.

    Args:
        where: what the values are, for messages.
        unit: what has a label.
        numbers: the number of each of them, for messages (default: from 0).

    Raises:
        DataError: a value that is missing, no single value, or no whole number.
    """
    texts = []
    for number, value in zip(range(len(values)) if numbers is None else numbers, values, strict=True):
        if isinstance(value, (list, tuple, dict, set, np.ndarray, bytes)):
            raise DataError(f"{where}: {unit} {number} has {value!r} as its class; give one name or number")
        if missing(value):
            raise DataError(f"{where}: {unit} {number} has no class ({value!r}); give it one, or leave it out")
        if isinstance(value, (float, np.floating)) and not float(value).is_integer():
            raise DataError(f"{where}: {unit} {number} has the value {value:g}; regression is not supported")
        texts.append(str(int(value)) if isinstance(value, (float, np.floating)) else str(value))
    distinct = set(texts)
    try:
        names = sorted(distinct, key=lambda name: (int(name), name))
    except ValueError:
        names, doubt = sorted(distinct), None
    else:
        decimals = any(isinstance(value, (float, np.floating)) for value in values)
        doubt = _doubt([int(name) for name in names], len(texts), decimals)
    position = {name: number for number, name in enumerate(names)}
    return {
        "labels": [position[text] for text in texts],
        "classes": names,
        "doubt": None if doubt is None else f"{where}: the labels {doubt}",
    }


def _doubt(numbers: Sequence[int], count: int, decimals: bool) -> str | None:
    """Why whole numbers in order look like amounts; None for 0..k-1, 1..k and the like, as classes are numbered."""
    if not numbers or set(numbers) <= {-1, 0, 1}:
        return None
    shown = ", ".join(map(str, numbers[:4])) + (" ..." if len(numbers) > 4 else "")
    if decimals:
        return f"{shown} are written with decimals"
    if numbers[0] not in (0, 1) or numbers[-1] - numbers[0] >= 2 * len(numbers):
        return f"{shown} are not numbered from 0 or 1"
    if len(numbers) > MANY and count < PER_CLASS * len(numbers):
        return f"have {len(numbers)} distinct values in {count} samples"
    return None
