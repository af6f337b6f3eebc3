"""Data that need no file."""

from __future__ import annotations

from pt_core.errors import UserError, nearest

from pt_graph.data import GraphDataset


def read_builtin(name: str) -> dict[str, GraphDataset]:
    """`molecules`: 200 + 120 + 200 generated molecules with two properties."""
    if name != "molecules":
        raise UserError(f"no built-in data {name!r}{nearest(name, ['molecules'])}; known: molecules")
    from pt_graph.molecules import molecule_data

    return molecule_data()
