"""Readers of graph data: SMILES tables, arrays, PyG's data sets, node tasks as graphs around nodes, and the built-in molecules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pt_core.errors import UserError

if TYPE_CHECKING:
    from pt_graph.data import DataOptions, GraphDataset

TABLES = (".csv", ".tsv", ".smi")
ARRAYS = (".npz", ".mat")


def read(spec: str, options: DataOptions, seed: int) -> dict[str, GraphDataset]:
    """Read what `spec` names.

    Raises:
        UserError: the path does not exist or is of no known kind.
        DataError: unusable content.
    """
    kind, _, name = spec.partition(":")
    if kind == "builtin":
        from pt_graph.sources.builtin import read_builtin

        return read_builtin(name)
    if kind == "pyg":
        from pt_graph.sources.pyg import read_pyg

        return read_pyg(name, options, seed)
    path = Path(spec)
    if not path.exists():
        raise UserError(
            f"--data {spec!r} does not exist; give a SMILES table ({', '.join(TABLES)}), arrays ({', '.join(ARRAYS)}), "
            "pyg:TUDataset/NAME or builtin:molecules"
        )
    if path.suffix.lower() in TABLES:
        from pt_graph.sources.smiles import read_table

        return read_table(path, options)
    if path.suffix.lower() in ARRAYS:
        from pt_graph.sources.arrays import read_arrays

        return read_arrays(path, options, seed)
    raise UserError(f"--data {spec!r} is of no known kind; known: {', '.join((*TABLES, *ARRAYS))}")
