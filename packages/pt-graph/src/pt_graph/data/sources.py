"""Where graphs come from: SMILES tables, arrays, PyG's data sets by name, and the built-in molecules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pt_core.errors import UserError, nearest, unless_known

if TYPE_CHECKING:
    from pt_graph.data.dataset import GraphDataset
    from pt_graph.options import DataOptions

TABLES = (".csv", ".tsv", ".smi")
ARRAYS = (".npz", ".mat")
BUILTIN = ("molecules",)
FAMILIES = ("TUDataset", "Planetoid", "MoleculeNet")
"""PyG's data sets that are read by name."""


def problem(spec: str) -> str | None:
    """What is wrong with a data spec, as far as its name and the file system tell; nothing is read."""
    kind, _, name = spec.partition(":")
    if kind == "builtin":
        return unless_known("built-in data", name, BUILTIN)
    if kind == "pyg":
        family, _, which = name.partition("/")
        if family in FAMILIES and which.replace("-", "").replace("_", "").isalnum():
            return None
        return f"pyg:{name} is unknown{nearest(family, FAMILIES)}; use pyg:FAMILY/NAME with {', '.join(FAMILIES)}"
    path = Path(spec)
    if not path.exists():
        return (
            f"--data {spec!r} does not exist; give a SMILES table ({', '.join(TABLES)}), arrays ({', '.join(ARRAYS)}), "
            "pyg:TUDataset/NAME or builtin:molecules"
        )
    if path.suffix.lower() not in (*TABLES, *ARRAYS):
        return f"--data {spec!r} is of no known kind; known: {', '.join((*TABLES, *ARRAYS))}"
    return None


def read(spec: str, options: DataOptions, seed: int) -> dict[str, GraphDataset]:
    """Read what `spec` names.

    Raises:
        UserError: it names nothing that there is (see `problem`), or it cannot be fetched.
        DataError: unusable content.
    """
    wrong = problem(spec)
    if wrong is not None:
        raise UserError(wrong)
    kind, _, name = spec.partition(":")
    # Each reader is imported where it is used: `problem` must not wait for torch.
    if kind == "builtin":
        from pt_graph.data.molecules import molecule_data

        return molecule_data()
    if kind == "pyg":
        from pt_graph.data.pyg import read_pyg

        return read_pyg(name, options, seed)
    path = Path(spec)
    if path.suffix.lower() in TABLES:
        from pt_graph.data.smiles import read_table

        return read_table(path, options)
    from pt_graph.data.arrays import read_arrays

    return read_arrays(path, options, seed)
