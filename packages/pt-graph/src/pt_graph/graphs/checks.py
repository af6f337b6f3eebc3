"""What edges, atoms and bonds must be, whoever gives them."""

from __future__ import annotations

from typing import Any

import torch
from pt_core.errors import DataError
from torch import Tensor

from pt_graph.graphs.structure import BOND_DIRECTIONS, BOND_TYPES

ATOM_ROWS = 120
"""Rows of the atom table: atomic number - 1, and the mask token."""


def whole(values: Any, what: str) -> Tensor:
    """The values as int64.

    Raises:
        DataError: one of them is no whole number; names it.
    """
    try:
        found = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{what} must hold whole numbers, it has none") from None
    if found.is_complex():
        raise DataError(f"{what} must hold whole numbers, not complex ones")
    if found.is_floating_point():
        wrong = found[~(found.isfinite() & (found == found.round()))]
        if len(wrong):
            raise DataError(f"{what} must hold whole numbers, it has {float(wrong.reshape(-1)[0]):g}")
    return found.long()


def edges_of(values: Any, nodes: int | None, where: str) -> Tensor:
    """(2, edge) int64 node numbers, below `nodes` where that is given.

    Raises:
        DataError: another shape, or numbers that are no nodes.
    """
    found = whole(values, f"{where}: edge_index")
    if not found.numel():
        return found.new_zeros(2, 0)
    if found.ndim != 2 or found.shape[0] != 2:
        turned = "; transpose it" if found.ndim == 2 and found.shape[1] == 2 else ""
        raise DataError(f"{where}: edge_index must be (2, edges), it has shape {tuple(found.shape)}{turned}")
    if nodes is not None and (int(found.min()) < 0 or int(found.max()) >= nodes):
        raise DataError(
            f"{where}: edge_index must have node numbers below {nodes}, it has {int(found.min())} to {int(found.max())}"
        )
    return found


def bonds_of(values: Any, edges: int, where: str) -> Tensor:
    """(edge, 2) int64 bond type and direction.

    Raises:
        DataError: other attributes of edges, such as distances or one-hot types.
    """
    found = whole(values, f"{where}: edge_attr (bond types and directions)")
    if not found.numel() and not edges:
        return found.new_zeros(0, 2)
    limits = torch.tensor([BOND_TYPES, BOND_DIRECTIONS], device=found.device)
    if tuple(found.shape) != (edges, 2) or bool(((found < 0) | (found >= limits)).any()):
        raise DataError(
            f"{where}: edge_attr must be (edges, 2) with bond types 0..{BOND_TYPES - 1} and directions 0..{BOND_DIRECTIONS - 1}, not "
            f"{tuple(found.shape)}; other attributes of edges are not supported: leave them out"
        )
    return found


def atoms_of(values: Tensor, where: str) -> Tensor:
    """(node, 2) int64 atoms: atomic number - 1, and a chirality tag, where "other" counts as unspecified (the tables have three rows).

    Raises:
        DataError: other categories.
    """
    if values.ndim != 2 or values.shape[1] != 2 or bool((values < 0).any()) or bool((values[:, 0] >= ATOM_ROWS).any()):
        raise DataError(
            f"{where}: atoms must be (nodes, 2): atomic number - 1 in 0..{ATOM_ROWS - 1} and a chirality tag, not {tuple(values.shape)}"
        )
    atoms = values.long().clone()
    atoms[:, 1][atoms[:, 1] > 2] = 0
    return atoms


def features_of(values: Any, where: str) -> Tensor:
    """(node, column) float32.

    Raises:
        DataError: another shape, or values that are not finite.
    """
    try:
        found = torch.as_tensor(values).detach().float()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{where}: x holds no numbers") from None
    if found.ndim != 2:
        raise DataError(f"{where}: x must be (nodes, columns), it has shape {tuple(found.shape)}")
    if not bool(found.isfinite().all()):
        raise DataError(f"{where}: x has values that are not finite")
    return found
