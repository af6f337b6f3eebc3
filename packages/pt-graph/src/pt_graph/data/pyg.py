"""PyG's own data sets: by name through the library, or given in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError, UserError

from pt_graph.data.chem import featurise_all, scaffolds
from pt_graph.data.dataset import GraphDataset
from pt_graph.data.division import by_role, scaffold_split
from pt_graph.data.labels import binary_targets, class_labels
from pt_graph.data.nodes import read_nodes
from pt_graph.graphs.batch import Graphs, single
from pt_graph.graphs.checks import atoms_of, bonds_of, edges_of, features_of, whole
from pt_graph.options import DataOptions

ROOT = Path("data/pyg")


def read_pyg(name: str, options: DataOptions, seed: int) -> dict[str, GraphDataset]:
    """`TUDataset/MUTAG`, `Planetoid/Cora` or `MoleculeNet/BBBP`, from data/pyg, where PyG puts what it fetches.

    Raises:
        UserError: it cannot be fetched.
    """
    family, _, which = name.partition("/")
    import torch_geometric.datasets as library

    try:
        found: Any = getattr(library, family)(str(ROOT / family), which)
    except Exception as error:  # whatever the library, its HTTP client or the archive raise
        raise UserError(
            f"pyg:{name} cannot be had ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from None
    if family == "MoleculeNet":
        smiles = [data.smiles for data in found]
        kept, graphs = featurise_all(smiles, first_row=1, skip_bad=options.skip_bad)
        y = torch.cat([found[row].y.reshape(1, -1) for row in kept]).numpy()
        names = [f"property {n + 1}" for n in range(y.shape[1])]
        texts = [smiles[row] for row in kept]
        every = GraphDataset(
            graphs, [f"molecule-{row}" for row in kept], targets=binary_targets(y, names, name), tasks=names
        )
        rows, note = scaffold_split(scaffolds(texts))
        return by_role(replace(every, notes=(note,)), rows)
    if family == "Planetoid":
        data = found[0]
        arrays = {
            name: np.asarray(data[name]) for name in ("x", "edge_index", "y", "train_mask", "val_mask", "test_mask")
        }
        return read_nodes(arrays, ROOT / name, options, seed)
    return {"train": from_pyg(found)}


def from_pyg(samples: Sequence[Any], classes: Sequence[str] = ()) -> GraphDataset:
    """Graphs from `torch_geometric.data.Data` objects in memory: x (features, or the two atom columns as integers with edge_attr),
    edge_index, and y, one class index per graph. Attributes of edges between other nodes are not read; a note says so.

    Raises:
        DataError: a graph without x, or without y where others have one; edges with weights; values that are no class.
    """
    graphs: list[Graphs] = []
    values: list[Any] = []
    unread = 0
    for number, data in enumerate(samples):
        where = f"graph {number}"
        if data.x is None:
            raise DataError(
                f"{where} has no node features x; add some, for instance torch_geometric.transforms.OneHotDegree"
            )
        if getattr(data, "edge_weight", None) is not None:
            raise DataError(f"{where}: weights of edges (edge_weight) are not supported; leave them out")
        if data.edge_index is None:
            raise DataError(f"{where} has no edge_index; one without edges has shape (2, 0)")
        x, bonds = data.x.detach().cpu(), getattr(data, "edge_attr", None)
        edges = edges_of(data.edge_index.detach().cpu(), len(x), where)
        if x.is_floating_point() or x.dtype == torch.bool or bonds is None:
            unread += bonds is not None
            graphs.append(single(features_of(x, where), edges))
        else:
            bonds = bonds_of(bonds.detach().cpu(), edges.shape[1], where)
            graphs.append(single(atoms_of(x, where), edges, bonds))
        y = data.y
        values.append(y.detach().reshape(-1).tolist() if isinstance(y, torch.Tensor) else None if y is None else [y])
    ids = [f"graph-{number}" for number in range(len(graphs))]
    notes = (f"attributes of edges are not read ({unread} graphs have some)",) if unread else ()
    if all(value is None for value in values):
        return GraphDataset(graphs, ids, notes=notes)
    if any(value is None or len(value) != 1 for value in values):
        raise DataError("every graph needs one y, its class index")
    targets = class_labels([value[0] for value in values], "y")
    if classes:
        numbers = whole([value[0] for value in values], "y").tolist()
        if min(numbers) < 0 or max(numbers) >= len(classes):
            raise DataError(f"y must have numbers 0..{len(classes) - 1} of the {len(classes)} classes that are named")
        targets = {"labels": numbers, "classes": list(classes)}
    return GraphDataset(graphs, ids, notes=notes, **targets)
