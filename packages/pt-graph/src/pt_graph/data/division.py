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


def scaffold_split(
    names: Sequence[str], fractions: tuple[float, float] = (0.8, 0.1)
) -> tuple[dict[str, list[int]], str]:
    """(rows by role, how they were divided). Whole scaffolds in order of (size, first molecule), largest first, fill train, then
    validation, then test; nothing is random.

    As published, molecules without rings share one scaffold. Where that leaves a part empty or training less than half of its share, each
    of them is a scaffold of its own.

    Args:
        names: scaffold of every molecule, "" without rings.
        fractions: shares of train and validation.

    Fewer than three scaffolds are no division: then all rows are for training, of which other parts can be split off at random.
    """
    note = "divided 80/10/10 by Bemis-Murcko scaffold (nothing random; --split random otherwise)"
    least = fractions[0] * len(names) / 2
    parts = _fill(names, fractions)
    if all(parts.values()) and len(parts["train"]) >= least:
        return parts, note
    own = [name or f"no rings {row}" for row, name in enumerate(names)]
    parts = _fill(own, fractions)
    if len(set(own)) < 3:
        return {
            "train": list(range(len(names)))
        }, f"not divided: the molecules have {len(set(own))} different scaffolds"
    if not all(parts.values()) or len(parts["train"]) < least:
        parts = _largest_trains(own, 1 - sum(fractions))
    acyclic = sum(not name for name in names)
    return parts, f"{note}; {acyclic} molecules without rings are scaffolds of their own" if acyclic else note


def _largest_trains(names: Sequence[str], held: float) -> dict[str, list[int]]:
    """Few molecules, or one scaffold beyond its share: the largest scaffold trains; the smallest go to validation and test until each has
    the share `held`."""
    groups = _ordered(names)
    parts: dict[str, list[int]] = {"train": list(groups[0]), "val": [], "test": []}
    for rows in reversed(groups[1:]):
        role = min(("test", "val"), key=lambda role: len(parts[role]))
        parts[role if len(parts[role]) < held * len(names) else "train"] += rows
    return parts


def _ordered(names: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, []).append(row)
    return sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True)


def _fill(names: Sequence[str], fractions: tuple[float, float]) -> dict[str, list[int]]:
    first, second = fractions[0] * len(names), sum(fractions) * len(names)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for rows in _ordered(names):
        if len(parts["train"]) + len(rows) <= first:
            parts["train"] += rows
        elif len(parts["train"]) + len(parts["val"]) + len(rows) <= second:
            parts["val"] += rows
        else:
            parts["test"] += rows
    return parts
