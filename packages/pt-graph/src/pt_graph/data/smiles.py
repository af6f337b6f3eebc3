"""Tables of molecules: a SMILES column, and columns with yes/no properties (empty: unknown) or a class; .smi files without a header."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import DataError, nearest

from pt_graph.data.chem import featurise_all, scaffolds
from pt_graph.data.dataset import GraphDataset
from pt_graph.data.division import by_role, roles_of, scaffold_split
from pt_graph.data.labels import binary_targets, class_labels, missing
from pt_graph.options import DataOptions

SMILES_NAMES = ("smiles", "SMILES", "mol", "molecule")
SPLIT_NAMES = ("split", "scaffold_split")
NAME = "2"
"""Second column of a file without a header: the molecule's name."""


def read_table(path: Path, options: DataOptions) -> dict[str, GraphDataset]:
    """See the module; without a division column molecules are divided by scaffold, or at random with --split random.

    Raises:
        DataError: a missing column (the nearest is named), labels that are neither, or unreadable molecules by row.
    """
    import pandas as pd

    headed, first = True, 2
    try:
        if path.suffix.lower() == ".smi":
            frame, headed = _smi(path, options)
            first = 2 if headed else 1
        else:
            tab = path.suffix.lower() == ".tsv"
            frame = pd.read_csv(path, sep="\t" if tab else ",", dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a readable table ({' '.join(str(error).split())[:120]})") from None
    if not len(frame):
        raise DataError(f"{path} has no rows" + (" below its header" if headed else ""))
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
    others = [name for name in columns if name not in (smiles, division)] if headed else []
    labels = list(options.label_columns) or others
    kept, graphs = featurise_all(frame[smiles].tolist(), first, options.skip_bad)
    texts = [frame[smiles].iloc[row].strip() for row in kept]
    notes = (
        (f"{len(frame) - len(kept)} of {len(frame)} molecules cannot be read and are left out",)
        if len(kept) < len(frame)
        else ()
    )
    frame = frame.iloc[kept].reset_index(drop=True)
    named = not headed and NAME in columns and NAME not in labels
    names = [name or text for name, text in zip(frame[NAME], texts, strict=True)] if named else texts
    targets = _labels(frame, labels, str(path), [row + first for row in kept])
    whole = GraphDataset(graphs, unique(names), notes=notes, **targets)
    if division is not None:
        return by_role(whole, roles_of(frame[division].tolist(), str(path)))
    if options.split == "random":
        return {"train": whole}
    rows, note = scaffold_split(scaffolds(texts))
    return by_role(GraphDataset(**{**vars(whole), "notes": (*notes, note)}), rows)


def _smi(path: Path, options: DataOptions) -> tuple[Any, bool]:
    """(table, whether it has a header). Columns are divided by tabs, else commas, else blanks; without a header: smiles, 2, 3 ..."""
    import pandas as pd

    lines = [line.rstrip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    text = "\n".join(lines[:1])
    separator = "\t" if "\t" in text else "," if "," in text.split(" ")[0] else None
    rows = [line.split(separator) if separator != "," else next(csv.reader([line])) for line in lines]
    heads = {*SMILES_NAMES, *([options.smiles_column] if options.smiles_column else [])}
    headed = bool(rows) and bool({cell.strip() for cell in rows[0]} & heads)
    width = max((len(row) for row in rows), default=1)
    names = [cell.strip() for cell in rows.pop(0)] if headed else ["smiles"]
    names += [str(number + 1) for number in range(len(names), width)]
    return pd.DataFrame([row + [""] * (len(names) - len(row)) for row in rows], columns=names, dtype=str), headed


def _column(wanted: str | None, usual: tuple[str, ...], columns: list[str], path: Path, flag: str) -> str | None:
    if wanted is None:
        return next((name for name in usual if name in columns), None)
    if wanted not in columns:
        raise DataError(
            f"{flag} {wanted!r}: {path} has no such column{nearest(wanted, columns)}; it has: {', '.join(columns)}"
        )
    return wanted


def _labels(frame: Any, names: list[str], where: str, rows: list[int]) -> dict[str, Any]:
    """Several columns, or one of 0, 1 and empty cells, are binary properties; another single column is a class.

    Args:
        rows: the rows' numbers in the file.
    """
    if not names:
        return {}
    cells = [["" if missing(cell) else cell.strip() for cell in frame[name].tolist()] for name in names]
    numbers: list[list[float]] | None
    try:
        numbers = [[float(cell) if cell else float("nan") for cell in column] for column in cells]
    except ValueError:
        numbers = None
    if numbers is None or (len(names) == 1 and _is_class(numbers[0])):
        if len(names) > 1:
            raise DataError(
                f"{where} has labels that are no numbers in several columns ({', '.join(names[:6])}); choose one with --label-columns"
            )
        if "" in cells[0]:
            raise DataError(f"{where}: row {rows[cells[0].index('')]} has no class in column {names[0]!r}")
        if numbers is not None and any("." in cell or "e" in cell.lower() for cell in cells[0]):
            return class_labels(numbers[0], f"{where}: column {names[0]!r}", "row", rows)
        return class_labels(cells[0], f"{where}: column {names[0]!r}", "row", rows)
    return {"targets": binary_targets(torch.tensor(numbers).T.numpy(), names, where), "tasks": names}


def _is_class(values: list[float]) -> bool:
    """Whole numbers, not only 0, 1 and -1."""
    present = {value for value in values if value == value}
    return not present <= {-1.0, 0.0, 1.0} and all(value.is_integer() for value in present)


def unique(texts: list[str]) -> list[str]:
    """Names of their own: repeated ones get their number behind."""
    seen: dict[str, int] = {}
    names = []
    for text in texts:
        seen[text] = seen.get(text, 0) + 1
        names.append(text if seen[text] == 1 else f"{text}#{seen[text]}")
    return names
