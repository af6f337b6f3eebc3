"""Which graphs are for training, validation and test: by a column, by scaffold, or at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pt_core.data import generator
from pt_core.errors import DataError

from pt_graph.data.dataset import GraphDataset

ROLES = {"0": "train", "1": "val", "2": "test", "valid": "val", "validation": "val", "training": "train", "dev": "val"}


def by_role(whole: GraphDataset, rows: Mapping[str, Sequence[int]]) -> dict[str, GraphDataset]:
    """Parts of a data set; the notes go with the first."""
    parts = {role: whole.subset(chosen) for role, chosen in rows.items() if len(chosen)}
    first = next(iter(parts))
    parts[first] = replace(parts[first], notes=whole.notes)
    return parts


def roles_of(values: Sequence[Any], where: str) -> dict[str, list[int]]:
    """Rows by role from a division column.

    Raises:
        DataError: a value that names no role.
    """
    rows: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row, value in enumerate(values):
        text = str(value).strip().lower().removesuffix(".0")
        role = ROLES.get(text, text)
        if role not in rows:
            raise DataError(f"{where}: the division of row {row + 1} is {value!r}; use train, val, test or 0, 1, 2")
        rows[role].append(row)
    if not rows["train"]:
        raise DataError(f"{where} has no training rows")
    return rows


def random_split(size: int, seed: int) -> dict[str, list[int]]:
    """80/10/10 at random."""
    order = torch.randperm(size, generator=generator(seed, "split")).tolist()
    first, second = round(0.8 * size), round(0.9 * size)
    return {"train": sorted(order[:first]), "val": sorted(order[first:second]), "test": sorted(order[second:])}


def scaffold_split(names: Sequence[str], fractions: tuple[float, float] = (0.8, 0.1)) -> dict[str, list[int]]:
    """Whole scaffolds in order of (size, first molecule), largest first, fill train, then validation, then test; nothing is random.

    Args:
        names: scaffold of every molecule.
        fractions: shares of train and validation.
    """
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, []).append(row)
    ordered = sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True)
    first, second = fractions[0] * len(names), sum(fractions) * len(names)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for rows in ordered:
        if len(parts["train"]) + len(rows) <= first:
            parts["train"] += rows
        elif len(parts["train"]) + len(parts["val"]) + len(rows) <= second:
            parts["val"] += rows
        else:
            parts["test"] += rows
    return parts
