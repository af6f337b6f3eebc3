"""What a `--data` names, found without reading anything: generated sounds, folders of clips, tables and records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pt_core.errors import DataError

BUILTIN = "builtin:sounds"
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
Kind = Literal["builtin", "lines", "parts", "table", "tables", "folders"]


def kind_of(spec: str) -> Kind:
    """How the data behind a name or path are read.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
    if spec.startswith("builtin:"):
        if spec != BUILTIN:
            raise DataError(f"no built-in data {spec!r}; known: {BUILTIN}")
        return "builtin"
    path = Path(spec)
    if path.is_dir():
        return "parts" if "train" in part_lines(path) else "tables" if "train" in part_tables(path) else "folders"
    if path.suffix not in (".csv", ".tsv", ".jsonl"):
        raise DataError(
            f"{spec} is neither a folder, nor a .csv or .tsv of labels, nor a .jsonl of records, nor {BUILTIN}"
        )
    if not path.is_file():
        raise DataError(
            f"{spec} does not exist; give a folder, a .csv or .tsv of labels, a .jsonl of records, or {BUILTIN}"
        )
    return "lines" if path.suffix == ".jsonl" else "table"


def part_lines(folder: Path) -> dict[str, Path]:
    """Role -> file of records in a folder that has one per part."""
    return {PARTS[file.stem]: file for file in sorted(folder.glob("*.jsonl")) if file.stem in PARTS}


def part_tables(folder: Path) -> dict[str, Path]:
    """Role -> table in a folder that has one per part.

    Raises:
        DataError: two tables of one part.
    """
    found: dict[str, Path] = {}
    for file in sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".tsv") and path.stem in PARTS):
        other = found.setdefault(PARTS[file.stem], file)
        if other != file:
            raise DataError(f"{folder} has {other.name} and {file.name} for the part {PARTS[file.stem]}; leave one")
    return found
