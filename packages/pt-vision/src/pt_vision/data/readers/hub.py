"""Data sets of the hub, or saved by the datasets library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_core.errors import DataError, UserError, require

from pt_vision.data.images import Source
from pt_vision.data.parts import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    ROLES,
    Found,
    Items,
    Part,
    cell,
    column,
    listed,
    short,
    texts,
)
from pt_vision.options import DataOptions


class _HubImages(Items):
    """Encoded images of a data set of the datasets library, read from its memory-mapped table when used."""

    def __init__(self, table: Any, column: str, folder: Path) -> None:
        self.table, self.column, self.folder = table, column, folder

    def __len__(self) -> int:
        return len(self.table)

    def item(self, index: int) -> Source:
        return cell(self.table[index][self.column], self.folder)


def read_hub(where: str | Path, options: DataOptions, wanted: Sequence[str]) -> Found:
    """A data set of the hub as NAME or NAME:CONFIG, or a folder written by its `save_to_disk`. No code of it is run."""
    datasets: Any = require("datasets", "pt-vision[hub]")
    try:
        if isinstance(where, Path):
            loaded = datasets.load_from_disk(str(where))
        else:
            name, _, config = where.partition(":")
            loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub client, its HTTP library and the file readers each raise their own
        hint = "" if isinstance(where, Path) else "; without a network give a folder written by save_to_disk"
        raise UserError(
            f"data set {str(where)!r} cannot be loaded ({type(error).__name__}: {short(error)}){hint}"
        ) from error
    tables = dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}
    known = {alias: role for role, aliases in ROLES.items() for alias in aliases}
    unused = [part for part in tables if part.lower() not in known]
    found = Found({})
    if len(unused) == len(tables):
        if len(tables) > 1:
            raise DataError(
                f"data set {str(where)!r} has parts {listed(list(tables))}, none of them train, val or test"
            )
        tables, unused = {"train": next(iter(tables.values()))}, []
    elif unused:
        found.notes.append(f"data set {str(where)!r}: parts that are not used: {listed(unused)}")
    for part, table in tables.items():
        if part not in unused:
            found.parts[known[part.lower()]] = _hub_part(datasets, where, part, table, options, wanted, found)
    return found


def _hub_part(
    datasets: Any, where: str | Path, part: str, table: Any, options: DataOptions, wanted: Sequence[str], found: Found
) -> Part:
    names, features = list(table.column_names), table.features
    pictures = [name for name in names if isinstance(features[name], datasets.Image)]
    classed = [name for name in names if isinstance(features[name], datasets.ClassLabel)]
    image = column(names, options.image_column, (*pictures, *IMAGE_COLUMNS), "--image-column", where)
    label = column(names, options.label_column, (*classed, *LABEL_COLUMNS), "--label-column", where)
    for name in wanted:
        column(names, name, (), "--where or --group-column", where)
    if isinstance(features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    elif getattr(features[image], "dtype", None) not in ("string", "large_string", "binary", "large_binary"):
        raise DataError(f"column {image!r} of {str(where)!r} holds no images; name another with --image-column")
    labels = table[label][:]
    if label in classed:
        found.classes = [str(name) for name in features[label].names]
        hidden = sum(value is None or value < 0 for value in labels)
        if hidden:
            raise DataError(f"{hidden} rows of part {part!r} of {str(where)!r} have no label; leave that part out")
        labels = [found.classes[value] for value in labels]
    folder = where if isinstance(where, Path) else Path()
    columns = {name: texts(table[name][:]) for name in wanted}
    sources = _HubImages(table.select_columns([image]), image, folder)
    return Part(sources, [f"{part}/{row}" for row in range(len(sources))], texts(labels), columns)
