"""Where rows come from: CSV, TSV, JSON, JSON lines, Parquet, text files, folders of them, hub data sets and built-in text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from pt_core.errors import DataError, nearest, require

ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")
BUILTIN = ("words", "modules")
"""Built-in data from modules of the standard library that the built-in model never read: `words`, eight words around one of four nouns;
`modules`, sentences to be told apart by their module (hard for a tiny model)."""
NOUNS = {"address": "function", "message": "character", "thread": "time", "turtle": "state"}
MODULES = {"asyncio": "function", "decimal": "character", "email": "time", "turtle": "state"}
"""Class -> the word that stands for it; none of these words was a label while the built-in model was trained."""


@dataclass
class Table:
    """Rows of text by column."""

    columns: list[str]
    rows: Sequence[Mapping[str, str]]
    ids: Sequence[str]
    notes: list[str] = field(default_factory=list)


def read_tables(spec: str, split_column: str | None = None, where: Sequence[str] = ()) -> dict[str, Table]:
    """Role -> table behind a path, `builtin:NAME` or `hub:NAME`.

    Raises:
        DataError: nothing readable there; names what is wrong and where.
    """
    kind, _, name = spec.partition(":")
    if kind == "builtin":
        frames = builtin(name)
    elif kind == "hub":
        frames = hub(name)
    else:
        frames = files(Path(spec))
    if len(frames) == 1 and (split_column or "split") in next(iter(frames.values())).columns:
        column, frame = split_column or "split", next(iter(frames.values()))
        unknown = sorted({str(v) for v in frame[column]} - set(ROLES))
        if unknown:
            raise DataError(f"column {column!r} of {spec} has {unknown[0]!r}; it may hold train, val and test")
        frames = {ROLES[str(value)]: part for value, part in frame.groupby(column)}
    elif split_column is not None:
        raise DataError(
            f"{spec} has no column {split_column!r}{nearest(split_column, list(next(iter(frames.values()))))}"
        )
    tables = {}
    for role in ("train", "val", "test", *sorted(set(frames) - {"train", "val", "test"})):
        if role in frames:
            frame = select(frames[role], where, spec)
            if frame.empty:
                raise DataError(f"the {role} part of {spec} has no rows" + (" that fit --where" if where else ""))
            rows = [{str(k): as_text(v) for k, v in row.items()} for row in frame.to_dict("records")]
            tables[role] = Table([str(c) for c in frame.columns], rows, [f"{role}/{i}" for i in frame.index])
    return tables


def as_text(value: object) -> str:
    """A cell as text; missing values are empty."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return str(value)


def files(path: Path) -> dict[str, pd.DataFrame]:
    """A file is the training part; a folder may hold one file per part, named after it (`sst2_train.csv`)."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        parts: dict[str, Path] = {}
        for file in found:
            role = next(
                (ROLES[w] for w in reversed(file.stem.lower().replace("-", "_").split("_")) if w in ROLES), None
            )
            if role is not None:
                if role in parts:
                    raise DataError(
                        f"folder {path} has two {role} files: {parts[role].name} and {file.name}; give one as --data {role}=FILE"
                    )
                parts[role] = file
        if not parts and len(found) == 1:
            parts = {"train": found[0]}
        if "train" not in parts:
            raise DataError(f"folder {path} has no file that is named after the training part (such as train.csv)")
        return {role: read_file(file) for role, file in parts.items()}
    return {"train": read_file(path)}


def read_file(path: Path) -> pd.DataFrame:
    """One file as a table.

    Raises:
        DataError: missing, of another kind, or not readable.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; give a file ({', '.join(SUFFIXES)}), a folder, builtin:NAME or hub:NAME"
        )
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            frame = pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
        elif suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif suffix == ".txt":
            frame = pd.DataFrame({"text": [line for line in path.read_text("utf-8").splitlines() if line.strip()]})
        elif suffix in (".json", ".jsonl"):
            text = path.read_text("utf-8")
            records = (
                json.loads(text)
                if suffix == ".json"
                else [json.loads(line) for line in text.splitlines() if line.strip()]
            )
            if not isinstance(records, list) or not all(isinstance(row, dict) for row in records):
                raise DataError(f"{path} must hold a list of objects")
            frame = pd.DataFrame(records)
        else:
            raise DataError(f"{path} is of no known kind; known: {', '.join(SUFFIXES)}")
    except (ValueError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:160]}") from None
    if frame.empty:
        raise DataError(f"{path} has no rows")
    return frame


def select(frame: pd.DataFrame, where: Sequence[str], spec: str) -> pd.DataFrame:
    """Rows that fulfil every condition COLUMN=VALUE or COLUMN!=VALUE (several values with |)."""
    for condition in where:
        column, found, values = condition.partition("=")
        negate = column.endswith("!")
        column = column.removesuffix("!")
        if not found or column not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise DataError(f"--where {condition!r}: {spec} has no column {column!r}; it has: {known}")
        inside = frame[column].map(as_text).isin(values.split("|"))
        frame = frame[~inside if negate else inside]
    return frame


def builtin(name: str) -> dict[str, pd.DataFrame]:
    """Built-in text by name: 60 test, 40 validation and up to 100 training rows per class."""
    if name not in BUILTIN:
        raise DataError(f"no built-in data {name!r}{nearest(name, BUILTIN)}; known: {', '.join(BUILTIN)}")
    from pt_language.corpus import HELD_OUT, module_sentences, window

    if name == "modules":
        texts = {label: module_sentences(tuple(MODULES))[module] for module, label in MODULES.items()}
    else:
        pool = [text for found in module_sentences(HELD_OUT).values() for text in found]
        texts = {}
        for noun, label in NOUNS.items():
            others = [other for other in NOUNS if other != noun]
            fitting = [t for t in pool if noun in t.lower() and not any(other in t.lower() for other in others)]
            texts[label] = [window(text, noun, 8) for text in fitting]
    parts: dict[str, list[dict[str, str]]] = {"train": [], "val": [], "test": []}
    for label, found in texts.items():
        distinct = list(dict.fromkeys(" ".join(text.split()[:20]) for text in found))
        room = len(distinct)
        test, val = min(60, room // 3), min(40, room // 5)
        for number, text in enumerate(distinct[:200]):
            role = "test" if number < test else "val" if number < test + val else "train"
            parts[role].append({"text": text, "label": label})
    return {role: pd.DataFrame(rows) for role, rows in parts.items()}


def hub(name: str) -> dict[str, pd.DataFrame]:
    """A data set of the hub, `NAME` or `NAME/CONFIG@REVISION`.

    Raises:
        DataError: it cannot be fetched.
        MissingExtra: the library is not installed.
    """
    datasets = require("datasets", "pt-language[hub]")
    path, _, revision = name.partition("@")
    try:
        found = datasets.load_dataset(path, revision=revision or None)  # type: ignore[attr-defined]
    except Exception as error:  # the hub's clients raise many kinds without a network or a data set
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise DataError(
            f"hub data set {name!r} cannot be loaded ({reason}); check name and network, or give a file"
        ) from None
    parts = {ROLES[split]: part.to_pandas() for split, part in found.items() if split in ROLES}
    if "train" not in parts:
        raise DataError(f"hub data set {name!r} has no training part; it has: {', '.join(found)}")
    return parts
