"""What `predict` reads: SMILES strings, SMILES tables, arrays, or graphs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pt_core.errors import DataError
from torch import Tensor

from pt_graph.data.chem import BadMolecule, featurise
from pt_graph.data.dataset import GraphDataset
from pt_graph.data.smiles import unique
from pt_graph.data.sources import ARRAYS, TABLES, read
from pt_graph.graphs.batch import Graphs
from pt_graph.options import DataOptions, PredictOptions


def _plain(tensor: Tensor) -> Tensor:
    """Where files put theirs: on the CPU, without a graph of gradients, features in float32."""
    found = tensor.detach().cpu()
    return found.float() if found.is_floating_point() else found


def input_graphs(items: Sequence[Any], options: PredictOptions | None) -> GraphDataset:
    """Unlabelled graphs.

    Raises:
        DataError: an item that is neither a readable file nor a molecule; names it.
    """
    options = options or PredictOptions()
    how = DataOptions(
        smiles_column=options.smiles_column,
        hops=options.hops,
        max_nodes=options.max_nodes,
        svd_dim=options.svd_dim,
        split="random",
    )
    graphs: list[Graphs] = []
    ids: list[str] = []
    for number, item in enumerate(items):
        if isinstance(item, Graphs):
            graphs.extend(item.map_tensors(_plain).split())
            ids.extend([f"graph-{number}" if len(item) == 1 else f"graph-{number}.{row}" for row in range(len(item))])
            continue
        text = str(item).strip()
        if text.startswith(("builtin:", "pyg:")) or Path(text).suffix.lower() in (*TABLES, *ARRAYS):
            for part in read(text, how, 0).values():
                graphs.extend(part.graphs)
                ids.extend(part.ids)
            continue
        try:
            graphs.append(featurise(text))
        except BadMolecule as problem:
            raise DataError(
                f"{text!r} {problem} (and no file of a known kind: {', '.join((*TABLES, *ARRAYS))})"
            ) from None
        ids.append(text)
    return GraphDataset(graphs, unique(ids))
