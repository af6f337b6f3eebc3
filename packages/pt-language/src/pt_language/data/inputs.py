"""Texts to predict for: given directly, as files, or as rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_core.errors import DataError

from pt_language.data.files import read_file
from pt_language.data.places import SUFFIXES
from pt_language.data.tables import Nested, as_text
from pt_language.data.templates import Template
from pt_language.data.texts import TextDataset


def input_texts(items: Sequence[Any], template: Template, column: str | None = None) -> TextDataset:
    """Rows for a template: strings (its only input), mappings of columns, or files with such rows.

    Args:
        column: column of a file that holds the only input, where it has another name than in the template.

    Raises:
        DataError: nothing given, a missing column, a cell that is no text, or a plain text where the template has several inputs.
    """
    rows: list[Mapping[str, str]] = []
    ids: list[str] = []
    for item in items:
        if isinstance(item, Mapping):
            row = {str(k): as_text(v) for k, v in item.items()}
            template.check_columns(list(row), "an input", answer=False)
            rows.append(row)
            ids.append(f"text-{len(ids)}")
        elif isinstance(item, Path) or (isinstance(item, str) and item.lower().endswith(SUFFIXES)):
            frame = read_file(Path(item))
            if column is not None and column in frame.columns and len(template.inputs) == 1:
                frame = frame.rename(columns={column: template.inputs[0]})
            template.check_columns([str(c) for c in frame.columns], str(item), answer=False)
            rows += [{str(k): as_text(v) for k, v in row.items()} for row in frame.to_dict("records")]
            ids += [f"{item}:{number}" for number in range(len(frame))]
        elif isinstance(item, str):
            if len(template.inputs) != 1:
                names = ", ".join(template.inputs) or "no input"
                raise DataError(
                    f"template {template.text!r} has the inputs {names}; give a table or a mapping with them"
                )
            rows.append({template.inputs[0]: item})
            ids.append(f"text-{len(ids)}")
        else:
            raise DataError(f"an input is of type {type(item).__name__}; give texts, mappings of columns, or files")
    if not rows:
        raise DataError("no input texts are given")
    for one, name in zip(rows, ids, strict=True):
        for field in template.inputs:
            cell = one[field]
            if isinstance(cell, Nested) and not template.is_chat:
                raise DataError(f"input {name!r} has {cell.kind} as {field!r}; every cell must be one text or number")
    return TextDataset(rows, ids, template, None, answered=False)
