"""PyG's own data sets: by name through the library, or given in memory."""

from __future__ import annotations

from collections.abc import Sequence
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
        whole = GraphDataset(
            graphs, [f"molecule-{row}" for row in kept], targets=binary_targets(y, names, name), tasks=names
        )
        return by_role(whole, scaffold_split(scaffolds(texts)))
    if family == "Planetoid":
        data = found[0]
        arrays = {
            name: np.asarray(data[name]) for name in ("x", "edge_index", "y", "train_mask", "val_mask", "test_mask")
        }
        return read_nodes(arrays, ROOT / name, options, seed)
    return {"train": from_pyg(found)}


def from_pyg(samples: Sequence[Any], classes: Sequence[str] = ()) -> GraphDataset:
    """Graphs from `torch_geometric.data.Data` objects in memory: x (float features, or the two atom columns with edge_attr), edge_index,
    and y, one class index per graph.

    Raises:
        DataError: a graph without x, or without y where others have one.
    """
    graphs: list[Graphs] = []
    values: list[Any] = []
    for number, data in enumerate(samples):
        if data.x is None:
            raise DataError(
                f"graph {number} has no node features x; add some, for instance torch_geometric.transforms.OneHotDegree"
            )
        atoms = not data.x.is_floating_point()
        graphs.append(single(data.x if atoms else data.x.float(), data.edge_index, data.edge_attr if atoms else None))
        values.append(None if data.y is None else data.y.reshape(-1).tolist())
    ids = [f"graph-{number}" for number in range(len(graphs))]
    if all(value is None for value in values):
        return GraphDataset(graphs, ids)
    if any(value is None or len(value) != 1 for value in values):
        raise DataError("every graph needs one y, its class index")
    labels, names = class_labels([value[0] for value in values])
    return GraphDataset(graphs, ids, labels, list(classes) or names)
