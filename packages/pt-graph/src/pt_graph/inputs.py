"""What `predict` reads: SMILES strings, SMILES tables, arrays, or graphs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

if TYPE_CHECKING:
    from pt_graph.data import GraphDataset


@dataclass(frozen=True)
class PredictOptions:
    """How inputs are read."""

    smiles_column: str | None = None
    """Column with the molecules of a table (default: smiles, SMILES, mol)."""
    hops: Annotated[int, Ge(1)] = 2
    """Node tasks: as the run was trained."""
    max_nodes: Annotated[int, Ge(1)] = 300
    """Node tasks: as the run was trained."""
    svd_dim: Annotated[int, Ge(1)] | None = 100
    """Node tasks: as the run was trained."""


def input_graphs(items: Sequence[Any], options: PredictOptions | None) -> GraphDataset:
    """Unlabelled graphs.

    Raises:
        DataError: an item that is neither a readable file nor a molecule; names it.
    """
    from pt_core.errors import DataError

    from pt_graph.chem import BadMolecule, featurise
    from pt_graph.data import DataOptions, GraphDataset
    from pt_graph.graphs import Graphs
    from pt_graph.sources import ARRAYS, TABLES, read
    from pt_graph.sources.smiles import unique

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
            graphs.extend(item.split())
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
