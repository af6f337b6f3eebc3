"""What a report shows, and how it is read from a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pt_core.errors import ArtifactError
from pt_core.run.declare.numbers import finite, is_number
from pt_core.run.declare.panel import Panel
from pt_core.run.report.values import mapping, named
from pt_core.run.train.rundir import RunDir
from pt_core.sealed import read_json


@dataclass(frozen=True)
class ReportData:
    """Everything the page of a run shows.

    Attributes:
        title, subtitle: of the page.
        headline: name -> number or text, shown large at the top.
        config: the resolved configuration.
        run: content of run.json.
        metrics: lines of metrics.jsonl.
        panels: in the order they are shown.
    """

    title: str
    subtitle: str = ""
    headline: Mapping[str, float | str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    panels: Sequence[Panel] = ()


def read_run(run: Path, status_is: Mapping[str, Any] | None = None) -> ReportData:
    """Collect a report's material from a run folder. Parts that a failed or interrupted run lacks are left empty; parts that
    cannot be read become a panel that says so.

    Args:
        status_is: entries of run.json that are about to be written.

    Raises:
        ArtifactError: there is no readable run.json.
    """
    status = {**read_json(run / "run.json"), **(status_is or {})}
    problems: list[Panel] = []
    stored = _read(run / "report.json", read_json, problems)
    config = _read(run / "config.yaml", lambda path: yaml.safe_load(path.read_text(encoding="utf-8")), problems)
    failure = _read(run / "failure.json", read_json, problems) if status.get("status") == "failed" else {}
    metrics = [line for line in RunDir(run).metrics() if isinstance(line, Mapping)]
    panels = stored.get("panels", [])
    return ReportData(
        title=str(status.get("title") or status.get("method") or run.resolve().name),
        subtitle=_subtitle(run.resolve().name, status),
        headline=headline(status),
        config=config,
        run={**status, "failure": failure} if failure else status,
        metrics=metrics,
        panels=[*(_panel(panel) for panel in (panels if isinstance(panels, list) else [])), *problems],
    )


def headline(run: Mapping[str, Any]) -> dict[str, float | str]:
    """The numbers that matter most, as far as run.json has them: results, tuned parameters, time."""
    shown: dict[str, float | str] = {}
    results, first = mapping(run.get("results")), selected_by(run)
    for part in ("test", "val"):
        values = {key: value for key, value in mapping(results.get(part)).items() if is_number(value)}
        if values:
            name = first if first in values else next(iter(values))
            shown[f"{'test' if part == 'test' else 'validation'} {name}"] = values[name]
    parameters = mapping(run.get("parameters"))
    if is_number(parameters.get("tuned")):
        shown["tuned_parameters"] = parameters["tuned"]
    if finite(parameters.get("share")):
        shown["of_the_backbone's_parameters"] = named("share", parameters["share"])
    seconds = mapping(run.get("time")).get("fit_seconds")
    if finite(seconds):
        shown["training_seconds"] = seconds
    return shown


def selected_by(run: Mapping[str, Any]) -> str:
    """The metric that the run's weights were selected by."""
    select = run.get("select")
    return str(select[0]) if isinstance(select, (list, tuple)) and select else "accuracy"


def _subtitle(name: str, run: Mapping[str, Any]) -> str:
    source = mapping(run.get("data")).get("source")
    data = ", ".join(map(str, source)) if isinstance(source, list) else source
    parts = [run.get("method"), mapping(run.get("backbone")).get("source"), data, f"run {name}"]
    return " · ".join(str(part) for part in parts if part)


def _read(path: Path, reader: Any, problems: list[Panel]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = reader(path)
    except (ArtifactError, OSError, ValueError, yaml.YAMLError) as error:
        problems.append(Panel(f"{path.name} could not be read", "text", {"text": str(error)}))
        return {}
    return dict(mapping(content))


def _panel(stored: Any) -> Panel:
    entry = mapping(stored)
    try:
        kind = entry.get("kind", "text")
        return Panel(str(entry.get("title", "")), kind, entry.get("data", {}), str(entry.get("note", "")))
    except ValueError as error:
        return Panel("A part of report.json cannot be shown", "text", {"text": str(error)})
