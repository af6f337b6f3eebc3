"""results.csv, results.parquet and study.html: all cells, and the settings with their seeds as points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from pt_core.run.data.tables import write_table
from pt_core.run.report import plots
from pt_core.run.report.page import render, save, table as page_table
from pt_core.run.report.strips import Strip, strips
from pt_core.run.report.values import finite, is_percentage, label, named, number, percent
from pt_core.run.study.folder import StudyFolder
from pt_core.run.study.outcome import Study
from pt_core.run.study.tables import CONFIDENCE, Setting, best, leading, settings

SHOWN = ("cell", "method", "data", "start", "seed", "status", "message", "fit_seconds")


def write_results(study: Study) -> None:
    """Write the tables and the page of a study as it stands."""
    found = study.rows
    write_table(study.path / "results.csv", found)
    write_table(study.path / "results.parquet", found)
    save(study.path / "study.html", render("study.html.j2", **_view(study, found)))


def _view(study: Study, table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    metric, mode = leading(StudyFolder(study.path), study.records)
    made = settings(study.cells, table, metric)
    groups = [(where, list(members)) for where, members in groupby(made, key=lambda setting: setting.where)]
    blocks = [_block(f"group{n}", where, members, metric, mode) for n, (where, members) in enumerate(groups)]
    shown = [*(name for name in SHOWN if any(row[name] not in (None, "") for row in table)), metric]
    failed = [(row["cell"], row["message"]) for row in table if row["status"] == "failed"]
    return {
        "title": f"Study {study.path.name}",
        "subtitle": study.summary(),
        "metric": label(metric),
        "better": "higher" if mode == "max" else "lower",
        "confidence": percent(CONFIDENCE),
        "blocks": blocks,
        "matrices": matrices(made, metric),
        "failed": failed,
        "cells": page_table([{name: row.get(name) for name in shown} for row in table]),
    }


def _block(key: str, where: tuple[str, str], members: Sequence[Setting], metric: str, mode: str) -> dict[str, Any]:
    """The settings that are compared with each other: a table and a plot."""
    top = best(members, mode)
    title = " · ".join(part for part in where if part) or "Settings"
    starts = any(setting.start for setting in members)
    bounds = (0.0, 1.0) if is_percentage(metric) else (-math.inf, math.inf)
    lines = []
    for setting in members:
        low, high = max(setting.interval[0], bounds[0]), min(setting.interval[1], bounds[1])
        interval = f"{named(metric, low)} to {named(metric, high)}" if finite(low) else "–"
        mean = named(metric, setting.mean) if setting.values else "–"
        std = named(metric, setting.std) if finite(setting.std) else "–"
        line: list[tuple[str, Any]] = [
            (setting.name, setting.name),
            *([(setting.start, setting.start)] if starts else []),
        ]
        line += [
            (mean, setting.mean if setting.values else ""),
            (std, setting.std if finite(setting.std) else ""),
            (interval, low if finite(low) else ""),
            (f"{len(setting.values)} of {setting.cells}", len(setting.values)),
        ]
        lines.append({"cells": line, "best": setting is top})
    names = ["setting", *(["start"] if starts else []), "mean", "std", f"{percent(CONFIDENCE)} interval", "seeds"]
    points = [
        Strip(f"{setting.name} {setting.start}".strip(), list(setting.values.values()), setting.mean, setting.interval)
        for setting in members
        if setting.values
    ]
    tick = (lambda value: f"{100 * value:.3g} %") if is_percentage(metric) else plots.compact
    return {
        "title": title,
        "names": names,
        "rows": lines,
        "plot": strips(key, f"{title}: {label(metric)}", points, label(metric), tick, bounds) if points else "",
    }


def matrices(made: Sequence[Setting], metric: str) -> list[dict[str, Any]]:
    """Heat maps: starts x data where cells start from others, else settings x data where there are several of both."""
    found: list[dict[str, Any]] = []
    for group, members in _by(made, lambda setting: setting.where[0]).items():
        chained = any(setting.start for setting in members)
        for name, those in (_by(members, lambda setting: setting.name) if chained else {"": members}).items():
            side = [setting.start if chained else setting.name for setting in those]
            rows, columns = list(dict.fromkeys(side)), list(dict.fromkeys(setting.where[1] for setting in those))
            if len(rows) < 2 or len(columns) < 2:
                continue
            values = [[math.nan] * len(columns) for _ in rows]
            for row, setting in zip(side, those, strict=True):
                values[rows.index(row)][columns.index(setting.where[1])] = setting.mean
            title = " · ".join(part for part in (group, name) if part) or "All settings"
            what = {"y_label": "start" if chained else "setting", "x_label": "data", "value_label": label(metric)}
            data = {"values": values, "rows": rows, "columns": columns, **what}
            svg = plots.heatmap(f"matrix{len(found)}", title, data)
            found.append(
                {"title": title, "svg": svg, "rows": rows, "columns": columns, "values": _texts(values, metric)}
            )
    return found


def _texts(values: Sequence[Sequence[float]], metric: str) -> list[list[str]]:
    return [[named(metric, value) if finite(value) else number(None) for value in row] for row in values]


def _by(made: Sequence[Setting], key: Any) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for setting in made:
        found.setdefault(key(setting), []).append(setting)
    return found
