"""Several runs side by side: a table with mean and standard deviation over seeds, and a page with a plot."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pt_core.run.declare.options import SEEDS, WITHOUT_EFFECT
from pt_core.run.report import plots
from pt_core.run.report.page import render, save
from pt_core.run.report.values import (
    duration,
    finite,
    flatten,
    is_number,
    is_percentage,
    label,
    mapping,
    mean_std,
    named,
    number,
    percent,
    texts,
)
from pt_core.sealed import read_json
from pt_core.task import LOWER_IS_BETTER

if TYPE_CHECKING:
    import pandas as pd

NOT_A_SETTING = (*SEEDS, *WITHOUT_EFFECT, "out", "method")
"""Entries of a configuration that never make a difference worth naming."""
MAX_DIFFERENCES = 3


@dataclass(frozen=True)
class _Run:
    folder: Path
    status: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def method(self) -> str:
        return str(self.status.get("method") or "unknown method")

    @property
    def group(self) -> str:
        """Equal for runs that differ by seed only."""
        stored = self.status.get("group")
        if stored:
            return str(stored)
        settings = {key: value for key, value in self.config.items() if key not in NOT_A_SETTING}
        text = json.dumps([self.method, settings or str(self.folder)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def result(self, part: str) -> dict[str, float]:
        values = mapping(mapping(self.status.get("results")).get(part))
        return {key: float(value) for key, value in values.items() if is_number(value)}

    def entry(self, part: str, key: str) -> Any:
        return mapping(self.status.get(part)).get(key)


def compare(runs: Sequence[Path], out: Path) -> pd.DataFrame:
    """Compare finished runs and write a self-contained page.

    Args:
        runs: run folders. Runs that differ by seed only become one row.
        out: the HTML file to write.

    Returns:
        One row per setting: run (its short name), method, backbone, split (the results' part), runs, tuned, share, then per metric
        `<metric>` (mean) and `<metric>_std` (sample standard deviation, NaN for one run), fit_seconds. Best first by the metric
        that the runs selected by; a row for which it is undefined is last. `attrs["left_out"]`: (folder, reason) of runs without results.

    Raises:
        ArtifactError: a folder has no readable run.json.
        UserError: `out` cannot be written.
    """
    import pandas as pd

    loaded = [_load(folder) for folder in runs]
    split = "test" if any(run.result("test") for run in loaded) else "val"
    left_out = {run.folder: _reason(run, split) for run in loaded}
    kept = [run for run in loaded if not left_out[run.folder]]
    groups: dict[str, list[_Run]] = {}
    for run in kept:
        groups.setdefault(run.group, []).append(run)
    names = _names([members[0] for members in groups.values()])
    rows = [_row(name, members, split) for name, members in zip(names, groups.values(), strict=True)]
    metric, mode = _leading(rows, kept)
    sign = -1 if mode == "max" else 1
    order = sorted(range(len(rows)), key=lambda i: sign * rows[i][metric] if finite(rows[i].get(metric)) else math.inf)
    rows = [_leading_first(rows[i], metric) for i in order]
    members = [list(groups.values())[i] for i in order]
    frame = pd.DataFrame(rows)
    skipped = [(str(folder), reason) for folder, reason in left_out.items() if reason]
    frame.attrs["left_out"] = skipped
    save(out, render("compare.html.j2", **_view(rows, members, metric, split, skipped)))
    return frame


def compare_table(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> str:
    """The rows of `compare` as aligned plain text, with the metrics in the form `mean ± std`."""
    records: list[Mapping[str, Any]] = list(rows) if isinstance(rows, Sequence) else list(rows.to_dict("records"))
    if not records:
        return "no finished run with results among these"
    header, body = _columns(records)
    lines = [[name for name, _ in header], *([text for text, _ in row] for row in body)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, (_, numeric) in zip(line, widths, header, strict=True)
        ).rstrip()
        for line in lines
    )


def _load(folder: Path) -> _Run:
    status = read_json(folder / "run.json")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        config = {}  # only needed for names and grouping, which have other sources
    config = mapping(config)
    return _Run(folder, status, flatten(mapping(config.get("options", config))))


def _reason(run: _Run, split: str) -> str:
    """Why a run is left out, or an empty text."""
    status = run.status.get("status", "unfinished")
    if status != "finished":
        message = run.status.get("message") or run.status.get("error")
        return f"{status}: {message}" if message else f"{status}"
    if not run.result(split):
        return f"no results on the {_part(split)} part"
    return ""


def _part(split: str) -> str:
    return "validation" if split == "val" else split


def _row(name: str, members: Sequence[_Run], split: str) -> dict[str, Any]:
    first = members[0]
    row: dict[str, Any] = {
        "run": name,
        "method": first.method,
        "backbone": str(first.entry("backbone", "source") or "–"),
        "split": split,
        "runs": len(members),
        "tuned": _number(first.entry("parameters", "tuned")),
        "share": _number(first.entry("parameters", "share")),
    }
    results = [member.result(split) for member in members]
    for key in dict.fromkeys(key for result in results for key in result):
        values = [result[key] for result in results if key in result]
        row[key] = statistics.fmean(values)
        usable = len(values) > 1 and all(map(math.isfinite, values))
        row[f"{key}_std"] = statistics.stdev(values) if usable else math.nan
    seconds = [value for member in members if finite(value := member.entry("time", "fit_seconds"))]
    row["fit_seconds"] = statistics.fmean(seconds) if seconds else math.nan
    return row


def _number(value: Any) -> float:
    return value if is_number(value) else math.nan


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metric names in the order they are shown."""
    return list(dict.fromkeys(key.removesuffix("_std") for row in rows for key in row if str(key).endswith("_std")))


def _leading(rows: Sequence[Mapping[str, Any]], runs: Sequence[_Run]) -> tuple[str, str]:
    """The metric that rows are sorted by and that is plotted, with its direction: the one that all runs selected by, also where it is
    undefined for some (they come last); else of those that every row has one that a run selected by, accuracy, or the first score."""
    names = _metrics(rows)
    modes: dict[str, str] = {}
    for run in runs:
        known = {str(name): str(mode) for name, mode in mapping(run.status.get("directions")).items()}
        found = {name: known.get(name, _usual(name)) for name in names if not known or name in known}
        modes = {**found, **modes}
    selected: dict[str, str] = {}
    for run in runs:
        match run.status.get("select"):
            case [str(name), "max" | "min" as mode]:
                selected.setdefault(name, mode)
    measured = set(names).union(*(mapping(run.status.get("directions")) for run in runs))
    if len(selected) == 1 and measured & set(selected) and all(run.status.get("select") for run in runs):
        ((leading, mode),) = selected.items()
        return leading, mode
    modes = {**modes, **selected}
    shared = [name for name in names if name in modes and all(name in row for row in rows)]
    choices = [*(name for name in (*selected, "accuracy", *shared) if name in shared), *modes]
    leading = choices[0] if choices else "accuracy"
    return leading, modes.get(leading, "max")


def _usual(name: str) -> str:
    """The direction of a metric in runs that do not say."""
    return "min" if name.partition("/")[0] in LOWER_IS_BETTER else "max"


def _leading_first(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    results = [key for key in row if str(key).endswith("_std") or f"{key}_std" in row]
    own = [key for key in results if key in (metric, f"{metric}_std")]
    rest = [key for key in results if key not in own]
    order = [key for key in row if key not in results and key != "fit_seconds"]
    undefined = {} if own else {metric: math.nan, f"{metric}_std": math.nan}
    return {
        **{key: row[key] for key in (*order, *own)},
        **undefined,
        **{key: row[key] for key in (*rest, "fit_seconds")},
    }


def _names(firsts: Sequence[_Run]) -> list[str]:
    """A short name per setting: the method, and what tells it from others of the same method."""
    packages = {run.method.partition("/")[0] for run in firsts}
    plain = [run.method.partition("/")[2] or run.method if len(packages) == 1 else run.method for run in firsts]
    names = []
    for name, run in zip(plain, firsts, strict=True):
        same = [other for other, other_name in zip(firsts, plain, strict=True) if other_name == name]
        keys = [key for key in dict.fromkeys(key for other in same for key in other.config) if key not in NOT_A_SETTING]
        different = [key for key in keys if len({str(other.config.get(key)) for other in same}) > 1]
        shown = [f"{key.rpartition('.')[2]}={_value(run.config.get(key))}" for key in different[:MAX_DIFFERENCES]]
        names.append(f"{name} {', '.join(shown)}" if shown else name)
    repeated = {name for name in names if names.count(name) > 1}
    return [
        f"{name} ({run.folder.name})" if name in repeated else name for name, run in zip(names, firsts, strict=True)
    ]


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
    return plots.short(text, 28)


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, bool]], list[list[tuple[str, Any]]]]:
    """((column name, is numeric)), and per row (text, value to sort by). Constant columns that tell nothing are left out."""
    split = str(rows[0].get("split", "test"))
    backbones = {row.get("backbone") for row in rows}
    metrics = _metrics(rows)
    header = [("setting", False), *([("backbone", False)] if len(backbones) > 1 else []), ("runs", True)]
    header += [(f"{_part(split)} {label(metrics[0])}", True)] if metrics else []
    header += [("tuned", True), ("share", True), *((label(key), True) for key in metrics[1:]), ("fit time", True)]
    scales = {key: max((abs(row[key]) for row in rows if finite(row.get(key))), default=0.0) for key in metrics}
    body = []
    for row in rows:
        scores = [
            (
                mean_std(key, row.get(key, math.nan), row.get(f"{key}_std", math.nan), scales[key])
                if finite(row.get(key)) or key != metrics[0]
                else "undefined",
                row.get(key),
            )
            for key in metrics
        ]
        cells: list[tuple[str, Any]] = [(str(row["run"]), row["run"])]
        cells += [(str(row.get("backbone")), row.get("backbone"))] if len(backbones) > 1 else []
        cells += [(number(row.get("runs")), row.get("runs")), *scores[:1]]
        tuned, share, seconds = row.get("tuned", math.nan), row.get("share", math.nan), row.get("fit_seconds", math.nan)
        cells.append((number(int(tuned)) if finite(tuned) else "–", tuned))
        cells += [(percent(share) if finite(share) else "–", share), *scores[1:]]
        cells.append((duration(seconds) if finite(seconds) else "–", seconds))
        body.append([(text, key if finite(key) or isinstance(key, str) else "") for text, key in cells])
    return header, body


def _view(
    rows: Sequence[Mapping[str, Any]],
    members: Sequence[Sequence[_Run]],
    metric: str,
    split: str,
    skipped: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    header, body = _columns(rows) if rows else ([], [])
    points = [
        (str(row["run"]), str(row["method"]), row["tuned"], row[metric], row.get(f"{metric}_std", math.nan))
        for row in rows
        if finite(row.get(metric)) and finite(row["tuned"])
    ]
    title = f"{_part(split).capitalize()} {label(metric)} against tuned parameters"

    def plot(key: str, size: tuple[float, float]) -> Any:
        tick = percent_tick if is_percentage(metric) else plots.compact
        return plots.scatter(key, title, points, "tuned parameters (log scale)", label(metric), tick, size)

    return {
        "title": f"Comparison of {len(rows)} setting{'s' if len(rows) != 1 else ''}",
        "subtitle": f"{sum(map(len, members))} finished runs, judged on the {_part(split)} part",
        "plot_title": title,
        "wide": plot("wide", (7.4, 3.9)) if points else "",
        "narrow": plot("narrow", (4.2, 4.4)) if points else "",
        "table": {"names": [n for n, _ in header], "numeric": [n for _, n in header], "rows": body, "note": ""},
        "cautions": _cautions(members),
        "spread": any(len(group) > 1 for group in members),
        "members": [
            (row["run"], [_member(run, metric, split) for run in group])
            for row, group in zip(rows, members, strict=True)
        ],
        "skipped": skipped,
    }


def percent_tick(value: float) -> str:
    return f"{100 * value:.3g} %"


def _member(run: _Run, metric: str, split: str) -> tuple[str, str, str]:
    seed = run.entry("seeds", "seed")
    value = run.result(split).get(metric)
    return str(run.folder), number(seed), named(metric, value)


def _cautions(members: Sequence[Sequence[_Run]]) -> list[str]:
    """What a reader must know before trusting the comparison."""
    said = []
    runs = [run for group in members for run in group]
    kinds: dict[str, set[Any]] = {
        "data": {", ".join(texts(run.entry("data", "source"))) for run in runs},
        "classes": {json.dumps(run.entry("data", "classes"), default=str) for run in runs},
        "number of test samples": {mapping(run.entry("data", "counts")).get("test") for run in runs},
    }
    differing = [name for name, found in kinds.items() if len(found) > 1]
    if differing:
        said.append(f"The runs differ in {' and '.join(differing)}: their results are not on one scale.")
    counts = sorted({len(group) for group in members})
    if len(counts) > 1:
        said.append(f"The settings have between {counts[0]} and {counts[-1]} runs each.")
    for group in members:
        seeds = [json.dumps(dict(mapping(run.status.get("seeds"))), sort_keys=True, default=str) for run in group]
        if len(set(seeds)) < len(seeds) and mapping(group[0].status.get("seeds")):
            said.append(f"Runs of {group[0].method} repeat a seed: {', '.join(str(run.folder) for run in group)}.")
    return said
