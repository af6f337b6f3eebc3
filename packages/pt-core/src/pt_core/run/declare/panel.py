"""A piece of a report, checked where it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pt_core.run.declare.numbers import finite, is_number

PanelKind = Literal["table", "lines", "heatmap", "bars", "text", "images", "confusion"]


@dataclass(frozen=True)
class Panel:
    """A piece of a report that a task, a method or a modality contributes.

    `data` by kind:
        table: {"rows": [{column: value}, ...]}.
        lines: {"series": {name: [(x, y), ...]}, "x_label", "y_label"}.
        heatmap: {"values": (row, column) numbers, "rows": [name], "columns": [name], "x_label", "y_label", "value_label"};
            names and labels may be left out.
        bars: {label: number}.
        text: {"text": str}; shown as it is, with its line breaks.
        images: {"items": [{"picture": PNG or JPEG (bytes or base64 text) or None, "id", "label", "predicted", "score",
            "correct"}, ...]}; everything is optional, further entries are ignored.
        confusion: {"labels": [name], "matrix": (true class, predicted class) counts}.

    Raises:
        ValueError: `data` does not have the form of its kind.
    """

    title: str
    kind: PanelKind
    data: Mapping[str, Any]
    note: str = ""

    def __post_init__(self) -> None:
        problem = _problem(self.kind, self.data)
        if problem:
            raise ValueError(f"panel {self.title!r} of kind {self.kind!r}: {problem}")


def _problem(kind: Any, data: Any) -> str | None:
    """What is wrong with a panel's data, or None."""
    if kind not in get_args(PanelKind):
        return f"unknown kind; known: {', '.join(get_args(PanelKind))}"
    if not isinstance(data, Mapping):
        return "data is not a mapping"
    try:
        problem: str | None = _FORMS[kind](data)
        return problem
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return f"data lacks {error}" if isinstance(error, KeyError) else f"data has another form ({error})"


def _table(data: Mapping[str, Any]) -> str | None:
    return None if all(isinstance(row, Mapping) for row in data["rows"]) else "rows must be mappings"


def _lines(data: Mapping[str, Any]) -> str | None:
    for name, points in data["series"].items():
        for x, y in points:
            if not is_number(x) or not is_number(y):
                return f"series {name!r} has a point that is not a pair of numbers"
    return None


def _heatmap(data: Mapping[str, Any]) -> str | None:
    rows = data["values"]
    if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
        return "values must be a filled rectangle"
    for key, size in (("rows", len(rows)), ("columns", len(rows[0]))):
        if key in data and len(data[key]) != size:
            return f"{len(data[key])} {key} named, the values have {size}"
    return None if all(is_number(value) for row in rows for value in row) else "values must be numbers"


def _bars(data: Mapping[str, Any]) -> str | None:
    return None if all(is_number(value) for value in data.values()) else "values must be numbers"


def _text(data: Mapping[str, Any]) -> str | None:
    return None if isinstance(data["text"], str) else "text must be a string"


def _images(data: Mapping[str, Any]) -> str | None:
    return None if all(isinstance(item, Mapping) for item in data["items"]) else "items must be mappings"


def _confusion(data: Mapping[str, Any]) -> str | None:
    size = len(data["labels"])
    if len(data["matrix"]) != size or any(len(row) != size for row in data["matrix"]):
        return f"the matrix must be {size} x {size}, as there are {size} labels"
    counts = (count for row in data["matrix"] for count in row)
    return None if all(finite(count) and count >= 0 for count in counts) else "counts must be numbers from 0 up"


_FORMS: dict[str, Any] = {
    "table": _table,
    "lines": _lines,
    "heatmap": _heatmap,
    "bars": _bars,
    "text": _text,
    "images": _images,
    "confusion": _confusion,
}
