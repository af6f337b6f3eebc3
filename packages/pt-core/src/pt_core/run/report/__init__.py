"""The report of a run and the comparison of several: self-contained HTML pages without external requests."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pt_core.run.report import plots
from pt_core.run.rundir import RunDir
from pt_core.sealed import read_json, write_text

if TYPE_CHECKING:
    import pandas as pd

MAX_CLASSES = 40
"""Beyond this a confusion matrix is shown as its largest confusions."""


@dataclass(frozen=True)
class ReportData:
    """Everything the page of a run shows.

    Attributes:
        run: run.json. metrics: lines of metrics.jsonl. panels: report.json. config: config.yaml.
    """

    name: str
    run: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    panels: Sequence[Mapping[str, Any]] = field(default_factory=list)


def read_run(run: Path) -> ReportData:
    """Collect the report's material from a run folder; parts that a failed run lacks are left empty."""
    folder = RunDir(run)
    config = run / "config.yaml"
    panels = run / "report.json"
    return ReportData(
        run.resolve().name,
        folder.status(),
        yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {},
        folder.metrics(),
        read_json(panels).get("panels", []) if panels.is_file() else [],
    )


def write_report(path: Path, data: ReportData) -> None:
    """Write the page of a run atomically."""
    curves = []
    for key, title in (("loss", "Training loss"), ("lr", "Learning rate")):
        points = _series(data.metrics, "train", key)
        if points:
            curves.append({"title": title, "svg": plots.line(points, "step", title)})
    validation = {key: _series(data.metrics, "val", key) for key in ("accuracy", "macro_f1")}
    if any(validation.values()):
        curves.insert(
            1, {"title": "Validation", "svg": plots.lines({k: v for k, v in validation.items() if v}, "step", "score")}
        )
    page = _template("report.html.j2").render(
        data=data,
        curves=curves,
        panels=[_panel(panel) for panel in data.panels],
        config=yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True),
        headline=_headline(data.run),
    )
    write_text(path, page)


def compare(runs: Sequence[Path], out: Path) -> pd.DataFrame:
    """Compare runs: those that differ by seed only become one row with mean and standard deviation. Writes a page to `out`."""
    import pandas as pd

    grouped: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        status = RunDir(run).status()
        if status.get("status") == "finished":
            grouped.setdefault(str(status.get("group", run)), []).append({**status, "folder": run})
    rows = []
    for members in grouped.values():
        first = members[0]
        results = [member["results"].get("test") or member["results"].get("val") or {} for member in members]
        scores = [result["accuracy"] for result in results if "accuracy" in result]
        rows.append(
            {
                "run": _label(first["folder"], len(members)),
                "method": first["method"],
                "backbone": first["backbone"]["source"],
                "tuned": first["parameters"]["tuned"],
                "share": first["parameters"]["share"],
                "seeds": len(members),
                "accuracy": statistics.mean(scores) if scores else float("nan"),
                "std": statistics.stdev(scores) if len(scores) > 1 else float("nan"),
                "seconds": statistics.mean(member["time"]["fit_seconds"] for member in members),
            }
        )
    frame = pd.DataFrame(rows)
    svg = plots.scatter(rows) if rows else ""
    write_text(out, _template("compare.html.j2").render(rows=rows, svg=svg))
    return frame


def compare_table(frame: pd.DataFrame) -> str:
    """The comparison as plain text."""
    if frame.empty:
        return "no finished run among these"
    lines = [f"{'run':<24} {'method':<20} {'tuned':>12} {'share':>8} {'seeds':>5} {'accuracy':>16} {'seconds':>8}"]
    for row in frame.to_dict("records"):
        spread = f" ± {row['std']:.4f}" if row["std"] == row["std"] else ""
        score = f"{row['accuracy']:.4f}{spread}"
        lines.append(
            f"{str(row['run'])[-24:]:<24} {row['method']:<20} {row['tuned']:>12,} {row['share']:>8.2%} "
            f"{row['seeds']:>5} {score:>16} {row['seconds']:>8.1f}"
        )
    return "\n".join(lines)


def _label(folder: Path, seeds: int) -> str:
    """A run's name; the parent's where the folder is one of several seeds."""
    return folder.parent.name if seeds > 1 or folder.name.startswith("seed-") else folder.name


def _series(metrics: Sequence[Mapping[str, Any]], split: str, key: str) -> list[tuple[float, float]]:
    """(cumulative step, value) over all stages."""
    points: list[tuple[float, float]] = []
    offset = last = 0
    stage = None
    for line in metrics:
        if line.get("stage") == "final":
            continue
        if line.get("stage") != stage:
            offset, stage = last, line.get("stage")
        last = max(last, offset + int(line.get("step", 0)))
        if line.get("split") == split and isinstance(line.get(key), (int, float)):
            points.append((offset + int(line["step"]), float(line[key])))
    return points


def _headline(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    results = run.get("results", {})
    shown = [
        (f"{role} {name}", f"{results[role][name]:.3f}")
        for role in ("test", "val")
        for name in ("accuracy",)
        if name in results.get(role, {})
    ]
    parameters = run.get("parameters", {})
    if parameters:
        shown.append(("tuned parameters", f"{parameters['tuned']:,}"))
        if parameters.get("share"):
            shown.append(("of the backbone", f"{parameters['share']:.2%}"))
    if "time" in run:
        shown.append(("training time", f"{run['time']['fit_seconds']:.1f} s"))
    return shown


def _panel(panel: Mapping[str, Any]) -> dict[str, Any]:
    data = panel["data"]
    shown = dict(panel)
    if panel["kind"] == "confusion":
        if len(data["labels"]) <= MAX_CLASSES:
            shown["svg"] = plots.confusion(data["matrix"], data["labels"])
        else:
            pairs = [
                {"label": data["labels"][i], "predicted": data["labels"][j], "count": count}
                for i, row in enumerate(data["matrix"])
                for j, count in enumerate(row)
                if i != j and count
            ]
            shown |= {"kind": "table", "data": {"rows": sorted(pairs, key=lambda pair: -pair["count"])[:30]}}
    elif panel["kind"] == "bars":
        shown["svg"] = plots.bars(data)
    return shown


def _template(name: str) -> Any:
    from jinja2 import DictLoader, Environment, select_autoescape

    folder = files("pt_core.run.report")
    sources = {
        path: (folder / path).read_text(encoding="utf-8")
        for path in ("base.html.j2", "report.html.j2", "compare.html.j2")
    }
    environment = Environment(
        loader=DictLoader(sources), autoescape=select_autoescape(default=True, default_for_string=True)
    )
    environment.filters["show"] = _show
    return environment.get_template(name)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


__all__ = ["ReportData", "compare", "compare_table", "read_run", "write_report"]
