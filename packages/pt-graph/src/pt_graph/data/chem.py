"""Molecules from SMILES: the two-integer featurisation of the molecular checkpoints, and Bemis-Murcko scaffolds.

atom: index = atomic number - 1 (0..117), chirality tag 0 unspecified, 1 clockwise, 2 counter-clockwise (the tables have 3 rows: RDKit's
"other" is dropped to 0). bond: 0 single, 1 double, 2 triple, 3 aromatic; direction 0 none, 1 up-right, 2 down-right; both directions of
a bond follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pt_core.errors import DataError, require

from pt_graph.graphs.batch import Graphs, single

EXTRA = "pt-graph[chem]"


class BadMolecule(Exception):
    """A SMILES string that gives no graph; the message says why."""


def rdkit() -> Any:
    """rdkit.Chem, with its own log messages off.

    Raises:
        MissingExtra: names the command that installs it.
    """
    require("rdkit", EXTRA)
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem


def featurise(smiles: str) -> Graphs:
    """The molecule as a graph.

    Raises:
        BadMolecule: it cannot be parsed, has no atoms, a wildcard atom, or a bond that is none of the four kinds.
    """
    chem = rdkit()
    molecule = chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        raise BadMolecule("is no valid SMILES")
    if not molecule.GetNumAtoms():
        raise BadMolecule("has no atoms")
    tags = {chem.ChiralType.CHI_TETRAHEDRAL_CW: 1, chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2}
    kinds = {chem.BondType.SINGLE: 0, chem.BondType.DOUBLE: 1, chem.BondType.TRIPLE: 2, chem.BondType.AROMATIC: 3}
    directions = {chem.BondDir.ENDUPRIGHT: 1, chem.BondDir.ENDDOWNRIGHT: 2}
    atoms = []
    for atom in molecule.GetAtoms():
        if not 1 <= atom.GetAtomicNum() <= 118:
            raise BadMolecule("has a wildcard atom")
        atoms.append([atom.GetAtomicNum() - 1, tags.get(atom.GetChiralTag(), 0)])
    edges, bonds = [], []
    for bond in molecule.GetBonds():
        kind = kinds.get(bond.GetBondType())
        if kind is None:
            raise BadMolecule(f"has a bond of kind {bond.GetBondType()}")
        start, end, direction = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), directions.get(bond.GetBondDir(), 0)
        edges += [[start, end], [end, start]]
        bonds += [[kind, direction]] * 2
    import torch

    pairs = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T
    return single(torch.tensor(atoms), pairs, torch.tensor(bonds, dtype=torch.long).reshape(-1, 2))


def featurise_all(smiles: Sequence[str], first_row: int = 2, skip_bad: bool = False) -> tuple[list[int], list[Graphs]]:
    """(positions kept, their graphs).

    Args:
        first_row: row number of the first molecule, as an editor counts it.
        skip_bad: leave out what cannot be read.

    Raises:
        DataError: molecules that cannot be read, listed by row.
    """
    from tqdm import tqdm

    kept, graphs, bad = [], [], []
    for number, text in enumerate(tqdm(smiles, desc="molecules", leave=False, delay=2, disable=None)):
        try:
            graphs.append(featurise(str(text).strip()))
            kept.append(number)
        except BadMolecule as problem:
            bad.append(f"row {number + first_row} ({text!r}) {problem}")
    if bad and (not skip_bad or not kept):
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise DataError(
            f"{len(bad)} of {len(smiles)} molecules cannot be read: {'; '.join(bad[:8])}{more}; mend them, or leave them out "
            "with --skip-bad"
        )
    return kept, graphs


def scaffolds(smiles: Sequence[str]) -> list[str]:
    """Bemis-Murcko scaffold of every molecule, chirality included."""
    rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return [MurckoScaffold.MurckoScaffoldSmiles(smiles=text, includeChirality=True) for text in smiles]
