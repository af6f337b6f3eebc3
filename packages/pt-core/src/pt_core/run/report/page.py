"""The page of one run."""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from pt_core.errors import UserError
from pt_core.run.declare.panel import Panel
from pt_core.run.report import plots
from pt_core.run.report.curves import curves, step_seconds
from pt_core.run.report.data import ReportData, selected_by
from pt_core.run.report.values import column, finite, flatten, is_number, label, mapping, named, number, percent, texts
from pt_core.sealed import write_text

MAX_CLASSES = 50
"""Up to here a confusion matrix is shown whole; beyond, its most frequent confusions."""
MAX_CONFUSIONS = 30
MAX_ROWS = 1000
"""Tables show no more rows; the browser has to lay them all out."""
WIDE = ("table", "images", "confusion", "text")
"""Panels that take the page's width; the others stand side by side."""
PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def write_report(path: Path, data: ReportData) -> None:
    """Write the page of a run: one self-contained HTML file, which appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    save(path, render("report.html.j2", **_view(data)))


def save(path: Path, page: str) -> None:
    """Write a page atomically."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; free space or choose another --out") from None


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; everything that is not `Markup` is escaped."""
    return str(_environment().get_template(template).render(**values))


@cache
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("pt_core.run.report")

    def source(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"style": Markup(source("style.css")), "script": Markup(source("sort.js"))}
    environment.filters |= {"label": label}
    return environment


def _view(data: ReportData) -> dict[str, Any]:
    run = data.run
    environment = flatten(mapping(run.get("environment")))
    panels = [view for index, panel in enumerate(data.panels) for view in panel_views(panel, f"panel{index}")]
    # A wide panel is a group of its own; plots between two of them share a row.
    numbered = enumerate(panels)
    grouped = [list(group) for _, group in groupby(numbered, lambda pair: pair[0] if pair[1]["wide"] else -1)]
    return {
        "title": data.title,
        "subtitle": data.subtitle,
        "banner": _banner(run),
        "headline": [(label(key), named(key, value)) for key, value in data.headline.items()],
        "curves": curves(data.metrics, selected_by(run)),
        "results": _results(mapping(run.get("results"))),
        "panels": [[view for _, view in group] for group in grouped],
        "budget": _budget(data),
        "facts_rows": _facts(run),
        "audit": _audit(run),
        "warnings": texts(mapping(run.get("audit")).get("warnings")),
        "notes": _notes(run),
        "config": yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True) if data.config else "",
        "command": shlex.join(texts(run.get("command"))),
        "environment": [(key, number(value)) for key, value in environment.items() if value is not None],
    }


def _banner(run: Mapping[str, Any]) -> dict[str, str] | None:
    """What to say above a page of a run that did not finish."""
    status = run.get("status")
    if status == "finished":
        return None
    said = {
        "failed": "This run failed.",
        "interrupted": "This run was interrupted.",
        "running": "This run has not finished: it is still at work, or was killed.",
    }
    failure = mapping(run.get("failure"))
    details = yaml.safe_dump(dict(failure), sort_keys=False, allow_unicode=True) if failure else ""
    return {
        "head": said.get(str(status), "This run has not finished."),
        "text": str(run.get("message") or run.get("error") or ""),
        "details": details,
        "kind": "bad" if status == "failed" else "warn",
    }


def _results(results: Mapping[str, Any]) -> dict[str, Any] | None:
    parts = {name: mapping(values) for name, values in results.items() if mapping(values)}
    names = list(dict.fromkeys(key for values in parts.values() for key in values))
    rows = [
        {"metric": label(key), **{part: named(key, values.get(key)) for part, values in parts.items()}} for key in names
    ]
    return table(rows) if rows else None


def _budget(data: ReportData) -> list[tuple[str, str]]:
    parameters, time = mapping(data.run.get("parameters")), mapping(data.run.get("time"))
    names = {"tuned": "tuned parameters", "backbone": "parameters of the backbone", "share": "tuned / backbone"}
    rows = [(names.get(key, label(key)), named(key, value)) for key, value in flatten(parameters).items()]
    rows += [(label(key), named(key, value)) for key, value in flatten(time).items()]
    step = step_seconds(data.metrics)
    if step is not None:
        rows.append(("median training step", named("seconds", step)))
    return rows


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = mapping(run.get("data"))
    counts = mapping(data.get("counts"))
    classes = data.get("classes")
    seeds = mapping(run.get("seeds"))
    rows = [
        ("method", number(run.get("method"))),
        ("backbone", number(mapping(run.get("backbone")).get("source"))),
        ("data", ", ".join(texts(data.get("source"))) or "–"),
        *((f"{role} samples", number(count)) for role, count in counts.items()),
        ("classes", number(len(classes)) if isinstance(classes, Sequence) and classes else "–"),
        ("seeds", ", ".join(f"{key} {number(value)}" for key, value in seeds.items()) or "–"),
        ("started", number(run.get("started"))),
        ("finished", number(run.get("finished"))),
        ("processes", number(run.get("processes"))),
    ]
    return [row for row in rows if row[1] != "–"]


def _audit(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Samples per class and part."""
    counts = {role: mapping(part) for role, part in mapping(mapping(run.get("audit")).get("counts")).items()}
    names = list(dict.fromkeys(name for part in counts.values() for name in part))
    rows = [
        {"class": name or "(no class)", **{role: part.get(name, 0) for role, part in counts.items()}} for name in names
    ]
    return table(rows) if rows else None


def _notes(run: Mapping[str, Any]) -> list[str]:
    audited = set(texts(mapping(run.get("audit")).get("warnings")))
    return [note for note in texts(run.get("notes")) if note not in audited]


def table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Header and cells of a table, up to MAX_ROWS. A cell is (text, value to sort by)."""
    left_out, rows = max(0, len(rows) - MAX_ROWS), rows[:MAX_ROWS]
    names = list(dict.fromkeys(str(key) for row in rows for key in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        shown = column(name, values)
        keys = [value if finite(value) else text for value, text in zip(values, shown, strict=True)]
        columns.append(list(zip(shown, keys, strict=True)))
    numeric = [any(is_number(row.get(name)) for row in rows) for name in names]
    return {
        "names": [label(name) for name in names],
        "numeric": numeric,
        "rows": list(zip(*columns, strict=True)) if rows else [],
        "note": f"The first {len(rows):,} of {len(rows) + left_out:,} rows." if left_out else "",
    }


def panel_views(panel: Panel, key: str) -> list[dict[str, Any]]:
    """What the template needs of a panel. Mostly one view; a confusion matrix brings the list of its largest entries along."""
    view = {"title": panel.title, "note": panel.note, "kind": panel.kind, "wide": panel.kind in WIDE, "key": key}
    data = panel.data
    if panel.kind == "table":
        return [view | {"table": table(data["rows"]), "tall": len(data["rows"]) > 20}]
    if panel.kind == "text":
        return [view | {"text": data["text"]}]
    if panel.kind == "images":
        return [view | {"items": [_sample(item) for item in _wrong_first(data["items"])]}]
    if panel.kind == "confusion":
        return _confusion(view, [str(name) for name in data["labels"]], data["matrix"])
    if panel.kind == "bars":
        return [view | {"svg": plots.bars(key, panel.title, data)}] if data else []
    if panel.kind == "heatmap":
        return [view | {"svg": plots.heatmap(key, panel.title, data)}]
    names = data.get("x_label", ""), data.get("y_label", "")
    return [view | {"svg": plots.lines(key, panel.title, data["series"], *names)}]


def _confusion(view: dict[str, Any], names: list[str], matrix: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    totals = [sum(row) for row in matrix]
    pairs: list[dict[str, Any]] = [
        {"true class": names[i], "predicted as": names[j], "samples": count, "share": count / totals[i]}
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    pairs.sort(key=lambda pair: (-pair["samples"], -pair["share"]))
    whole = len(names) <= MAX_CLASSES
    shown = pairs[: 5 if whole else MAX_CONFUSIONS]
    top = table(shown) if shown else None
    rest = f"{len(shown)} of {len(pairs):,} pairs" if len(pairs) > len(shown) else ""
    if not whole:
        head: dict[str, Any] = {"top": top, "matrix": [], "classes": [], "rest": rest}
        return [view | head | {"note": f"The {len(names):,} classes are too many for a matrix. {view['note']}".strip()}]
    rows = []
    for i, row in enumerate(matrix):
        cells = []
        for j, count in enumerate(row):
            share = count / totals[i] if totals[i] else 0.0
            tip = f"true {names[i]}, predicted {names[j]}: {number(count)} of {number(totals[i])} ({percent(share)})"
            shade = f"{max(share, 0.08) if count else 0:.2f}"
            cells.append(
                {"text": number(count) if count else "", "shade": shade, "hit": i == j, "dark": share > 0.5, "tip": tip}
            )
        rows.append({"name": names[i], "cells": cells, "total": number(totals[i])})
    size = "small" if len(names) > 20 else ""
    upright = max(map(len, names), default=0) > 3
    return [view | {"matrix": rows, "classes": names, "top": top, "rest": rest, "size": size, "upright": upright}]


def _wrong_first(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(items, key=lambda item: _correct(item) is not False)


def _correct(item: Mapping[str, Any]) -> bool | None:
    if isinstance(item.get("correct"), bool):
        return bool(item["correct"])
    if item.get("label") is None or item.get("predicted") is None:
        return None
    return bool(item["label"] == item["predicted"])


def _sample(item: Mapping[str, Any]) -> dict[str, Any]:
    correct, score = _correct(item), item.get("score")
    source, width = _picture(item.get("picture"))
    return {
        "source": source,
        "tiny": 0 < width <= 64,
        "id": str(item.get("id", "")),
        "predicted": number(item["predicted"]) if item.get("predicted") is not None else "",
        "label": number(item["label"]) if item.get("label") is not None else "",
        "score": percent(score) if finite(score) else "",
        "status": {True: "right", False: "wrong", None: ""}[correct],
    }


def _picture(picture: Any) -> tuple[str, int]:
    """(data URI, width in pixels where known) of a PNG or JPEG; anything else gives no picture."""
    try:
        content = picture if isinstance(picture, bytes) else base64.b64decode(picture or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        return "", 0
    kind = next((kind for start, kind in PICTURES.items() if content.startswith(start)), None)
    if kind is None:
        return "", 0
    width = int.from_bytes(content[16:20], "big") if kind == "image/png" else 0
    return f"data:{kind};base64,{base64.b64encode(content).decode()}", width
