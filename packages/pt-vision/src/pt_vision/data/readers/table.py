"""Tables with one image per row: CSV, TSV and Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_core.errors import DataError

from pt_vision.data.images import Source
from pt_vision.data.parts import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    ROLES,
    Found,
    Part,
    cell,
    column,
    listed,
    pick,
    short,
    texts,
)
from pt_vision.options import DataOptions


def read_table(path: Path, options: DataOptions, wanted: Sequence[str]) -> Found:
    """CSV, TSV or Parquet with one image per row: a path relative to the table's folder, or the encoded bytes.

    Parquet columns of bytes or of {bytes, path} (as the hub writes them) hold the image itself.
    """
    names, load = _open_table(path)
    image = column(names, options.image_column, IMAGE_COLUMNS, "--image-column", path)
    label = column(names, options.label_column, LABEL_COLUMNS, "--label-column", path)
    split = options.split_column or ("split" if "split" in names else None)
    if split is not None:
        column(names, split, (), "--split-column", path)
    for name in wanted:
        column(names, name, (), "--where or --group-column", path)
    columns, classes = load(list(dict.fromkeys([image, label, *([split] if split else []), *wanted])), label)
    labels = texts(columns[label])
    empty = [str(row) for row, text in enumerate(labels) if not text]
    if empty:
        raise DataError(f"{path} has rows without a {label!r}: {listed(empty)} (counted from 0)")
    sources = [cell(value, path.parent) for value in columns[image]]
    ids = [str(value) if isinstance(value, str) else f"row-{row}" for row, value in enumerate(columns[image])]
    extra = {name: texts(columns[name]) for name in wanted}
    if split is None:
        return Found({"train": Part(sources, ids, labels, extra)}, classes)
    return _by_split(sources, ids, labels, extra, texts(columns[split]), classes, f"column {split!r} of {path}")


def _by_split(
    sources: Sequence[Source],
    ids: Sequence[str],
    labels: Sequence[str],
    extra: Mapping[str, Sequence[str]],
    splits: Sequence[str],
    classes: list[str] | None,
    where: str,
) -> Found:
    known = {name: role for role, names in ROLES.items() for name in names}
    wrong = sorted({text for text in splits if text.lower() not in known})
    if wrong:
        raise DataError(f"{where} holds {listed([repr(text) for text in wrong])}; use train, val and test")
    parts = {}
    for role in ROLES:
        rows = [row for row, text in enumerate(splits) if known[text.lower()] == role]
        if rows:
            columns = {name: pick(values, rows) for name, values in extra.items()}
            parts[role] = Part(pick(sources, rows), pick(ids, rows), pick(labels, rows), columns)
    return Found(parts, classes)


def _open_table(path: Path) -> tuple[list[str], Any]:
    """Column names, and a function (columns, label column) -> (column -> values, class names or None)."""
    if path.suffix.lower() == ".parquet":
        return _open_parquet(path)
    import warnings

    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            # As text, without words for missing values: a class may be called 01, NA or None. Without index_col a row
            # with one field too many would silently make the first column an index.
            frame = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
            )
    except (OSError, ValueError, Warning) as error:
        raise DataError(f"{path} cannot be read as a table: {short(error)}") from None
    names = [str(name) for name in frame.columns]
    return names, lambda columns, label: ({name: frame[name].tolist() for name in columns}, None)


def _open_parquet(path: Path) -> tuple[list[str], Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table: {short(error)}") from None

    def load(columns: list[str], label: str) -> tuple[dict[str, list[Any]], list[str] | None]:
        try:
            table = pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as a table: {short(error)}") from None
        values = {name: table.column(name).to_pylist() for name in columns}
        classes = _parquet_classes(schema, label)
        if classes is not None and all(isinstance(value, int) and 0 <= value < len(classes) for value in values[label]):
            values[label] = [classes[value] for value in values[label]]
            return values, classes
        return values, None

    return list(schema.names), load


def _parquet_classes(schema: Any, label: str) -> list[str] | None:
    """Class names that the datasets library left in the file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
