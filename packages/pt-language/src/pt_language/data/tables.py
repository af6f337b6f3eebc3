"""Rows of text by role, wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import DataError, nearest

from pt_language.data.builtin import builtin
from pt_language.data.files import read_file
from pt_language.data.hub import hub, saved
from pt_language.data.places import ROLES, is_saved, part_files

if TYPE_CHECKING:
    import pandas as pd


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
    elif is_saved(Path(spec)):
        frames = saved(Path(spec))
    else:
        frames = {role: read_file(file) for role, file in part_files(Path(spec)).items()}
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


class Nested(str):
    """A cell that is a list or a mapping, as JSON; a template that asks for it is refused, unless it is one of conversations."""

    kind: str


def _jsonable(value: Any) -> Any:
    """Arrays of a Parquet file as lists, other things as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def as_text(value: object) -> str:
    """A cell as text; missing values of every kind are empty."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) or (hasattr(value, "__len__") and not isinstance(value, bytes)):
        plain = value if isinstance(value, (Mapping, list)) else list(value)  # type: ignore[call-overload]
        cell = Nested(json.dumps(plain, ensure_ascii=False, default=_jsonable))
        cell.kind = "a mapping" if isinstance(value, Mapping) else "a list"
        return cell
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return ""
    return str(value)


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
