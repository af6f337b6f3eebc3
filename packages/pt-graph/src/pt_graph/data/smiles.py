"""Tables of molecules: a SMILES column, and columns with yes/no properties (empty: unknown) or a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pt_core.errors import DataError, nearest

from pt_graph.data.chem import featurise_all, scaffolds
from pt_graph.data.dataset import GraphDataset
from pt_graph.data.division import by_role, roles_of, scaffold_split
from pt_graph.data.labels import binary_targets, class_labels
from pt_graph.options import DataOptions

SMILES_NAMES = ("smiles", "SMILES", "mol", "molecule")
SPLIT_NAMES = ("split", "scaffold_split")


def read_table(path: Path, options: DataOptions) -> dict[str, GraphDataset]:
    """See the module; without a division column molecules are divided by scaffold, or at random with --split random.

    Raises:
        DataError: a missing column (the nearest is named), labels that are neither, or unreadable molecules by row.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str, keep_default_na=False)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable table ({' '.join(str(error).split())[:120]})") from None
    columns = [str(name) for name in frame.columns]
    smiles = _column(options.smiles_column, SMILES_NAMES, columns, path, "--smiles-column")
    if smiles is None:
        raise DataError(
            f"{path} has no column {', '.join(SMILES_NAMES)}; name it with --smiles-column (it has: {', '.join(columns)})"
        )
    division = _column(options.split_column, SPLIT_NAMES, columns, path, "--split-column")
    for name in options.label_columns:
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}{nearest(name, columns)}; it has: {', '.join(columns)}")
    labels = list(options.label_columns) or [name for name in columns if name not in (smiles, division)]
    kept, graphs = featurise_all(frame[smiles].tolist(), skip_bad=options.skip_bad)
    texts = [frame[smiles].iloc[row].strip() for row in kept]
    notes = (
        (f"{len(frame) - len(kept)} of {len(frame)} molecules cannot be read and are left out",)
        if len(kept) < len(frame)
        else ()
    )
    frame = frame.iloc[kept].reset_index(drop=True)
    whole = GraphDataset(graphs, unique(texts), notes=notes, **_labels(frame, labels, str(path)))
    if division is not None:
        return by_role(whole, roles_of(frame[division].tolist(), str(path)))
    if options.split == "random":
        return {"train": whole}
    note = "divided 80/10/10 by Bemis-Murcko scaffold (nothing random; --split random otherwise)"
    return by_role(GraphDataset(**{**vars(whole), "notes": (*notes, note)}), scaffold_split(scaffolds(texts)))


def _column(wanted: str | None, usual: tuple[str, ...], columns: list[str], path: Path, flag: str) -> str | None:
    if wanted is None:
        return next((name for name in usual if name in columns), None)
    if wanted not in columns:
        raise DataError(
            f"{flag} {wanted!r}: {path} has no such column{nearest(wanted, columns)}; it has: {', '.join(columns)}"
        )
    return wanted


def _labels(frame: Any, names: list[str], where: str) -> dict[str, Any]:
    """Several columns, or one of 0, 1 and empty cells, are binary properties; another single column is a class."""
    if not names:
        return {}
    cells = [[cell.strip() for cell in frame[name].tolist()] for name in names]
    try:
        numbers = [[float(cell) if cell else float("nan") for cell in column] for column in cells]
    except ValueError:
        numbers = None  # type: ignore[assignment]
    if numbers is None or (len(names) == 1 and _is_class(numbers[0])):
        if len(names) > 1:
            raise DataError(
                f"{where} has labels that are no numbers in several columns ({', '.join(names[:6])}); choose one with --label-columns"
            )
        if "" in cells[0]:
            raise DataError(f"{where}: row {cells[0].index('') + 2} has no class in column {names[0]!r}")
        labels, classes = class_labels(cells[0])
        return {"labels": labels, "classes": classes}
    return {"targets": binary_targets(torch.tensor(numbers).T.numpy(), names, where), "tasks": names}


def _is_class(values: list[float]) -> bool:
    """Whole numbers, not only 0, 1 and -1."""
    present = {value for value in values if value == value}
    return (
        not present <= {-1.0, 0.0, 1.0}
        and all(value == int(value) for value in present)
        and len(present) == len(set(present)) <= 50
    )


def unique(texts: list[str]) -> list[str]:
    """Names of their own: repeated ones get their number behind."""
    seen: dict[str, int] = {}
    names = []
    for text in texts:
        seen[text] = seen.get(text, 0) + 1
        names.append(text if seen[text] == 1 else f"{text}#{seen[text]}")
    return names
