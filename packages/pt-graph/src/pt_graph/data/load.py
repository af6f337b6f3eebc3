"""From a path or a name to the parts of a run: what was read, cut to the shots and samples that were asked for."""

from __future__ import annotations

from dataclasses import replace

import torch
from pt_core.data import generator
from pt_core.errors import DataError

from pt_graph.data.dataset import GraphDataset
from pt_graph.data.sources import read
from pt_graph.options import DataOptions


def load_graphs(spec: str, options: DataOptions | None = None, seed: int = 0) -> dict[str, GraphDataset]:
    """The parts train, val and test (where there are such) behind a path or a `builtin:` name.

    Args:
        spec: SMILES table (.csv, .tsv), arrays (.npz, .mat), pyg:FAMILY/NAME, or builtin:molecules.
        options: how to read.
        seed: sampling seed of random divisions and of `total_shots`.

    Raises:
        UserError: the path does not exist or is of no known kind.
        DataError: unreadable molecules (listed by row), missing columns or arrays.
    """
    options = options or DataOptions()
    parts = read(spec, options, seed)
    for role, limit in (("train", options.total_shots), ("val", options.max_val), ("test", options.max_test)):
        if limit is None or role not in parts:
            continue
        part = parts[role]
        if role == "train" and limit > len(part):
            raise DataError(f"--total-shots {limit} is more than the training part has ({len(part)} graphs)")
        if limit < len(part):
            order = torch.randperm(len(part), generator=generator(seed, "shots" if role == "train" else role))
            chosen = order[:limit].tolist()
            note = (f"{role}: {limit} of {len(part)} graphs (drawn with seed {seed})",)
            parts[role] = replace(part.subset(chosen), notes=(*part.notes, *note))
    for role, part in parts.items():
        if part.targets is not None:
            parts[role] = replace(part, notes=(*part.notes, f"{role}: {label_summary(part)}"))
    return parts


def label_summary(part: GraphDataset, most: int = 3) -> str:
    """How many graphs have which property, for the user; further properties are counted only."""
    assert part.targets is not None
    names = list(part.tasks or ())
    counts = [((part.targets == sign).sum(0)).tolist() for sign in (1, -1, 0)]
    shown = [f"{name} {yes} yes, {no} no, {none} missing" for name, yes, no, none in zip(names, *counts, strict=True)]
    return "; ".join(shown[:most]) + (f"; and {len(shown) - most} more properties" if len(shown) > most else "")
