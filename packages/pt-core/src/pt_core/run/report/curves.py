"""The curves of a run, from the lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pt_core.run.report import plots
from pt_core.run.report.values import finite, is_number, is_percentage, label, number, percent

Points = list[tuple[float, float]]
PLACE = ("stage", "stage_number", "step", "split", "seconds", "time", "epoch")
FINAL = "final"
"""Stage name of the evaluation after training; no point of a curve."""
MAX_MARKS = 8


@dataclass(frozen=True)
class Curve:
    title: str
    svg: Markup
    """A plot, or a line of text where nothing was logged twice."""
    main: bool
    """Shown at once; the others are folded away."""


def curves(metrics: Sequence[Mapping[str, Any]], first: str = "accuracy") -> list[Curve]:
    """Training loss, validation metrics (`first` shown at once), learning rates; then everything else that was logged. Steps count
    on over stages."""
    lines, starts = _over_stages(metrics)
    marks = starts if 1 < len(starts) <= MAX_MARKS else []
    series = {split: _series(lines, split) for split in ("train", "val")}
    drawn: list[Curve] = []

    def add(title: str, parts: Mapping[str, Points], main: bool) -> None:
        parts = {name: points for name, points in parts.items() if points}
        if not parts:
            return
        share = is_percentage(title.lower().replace(" ", "_"))
        if all(len(points) == 1 for points in parts.values()):
            drawn.append(Curve(title, _once(parts, share), main))
            return
        tick = _whole_percent if share else plots.compact
        shown = next(iter(parts)) if len(parts) == 1 else "training and validation"
        name = f"{title}: {shown} over steps, last value " + ", ".join(
            f"{points[-1][1]:.3g}" for points in parts.values()
        )
        svg = plots.lines(f"curve{len(drawn)}", name, parts, "step", "", marks, tick)
        drawn.append(Curve(title, svg, main))

    train, val = series["train"], series["val"]
    losses = [key for key in train if key.split("/")[-1] == "loss"]
    for key in losses:
        both = {"training": train[key], "validation": val.get(key, [])}
        add(_title(key), both, key == losses[0])
    scores = sorted((key for key in val if key not in losses), key=lambda key: (key != first, first in key))
    for place, key in enumerate(scores):
        both = (
            {"training (batches)": train.get(key, []), "validation": val[key]}
            if key in train
            else {"validation": val[key]}
        )
        add(_title(key), both, place == 0 or (not losses and place < 2))
    rates = {key: points for key, points in train.items() if key == "lr" or key.startswith("lr/")}
    add("Learning rate", {key.removeprefix("lr/"): points for key, points in rates.items()}, True)
    norms = {key: points for key, points in train.items() if key.startswith("grad_norm")}
    add("Gradient norm", {key.removeprefix("grad_norm/"): points for key, points in norms.items()}, False)
    for key in train:
        if key not in losses and key not in scores and key not in rates and key not in norms:
            add(_title(key), {"training": train[key]}, False)
    return sorted(drawn, key=lambda curve: not curve.main)


def step_seconds(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """Median time of a training step among the logged ones."""
    times = sorted(line["seconds"] for line in metrics if line.get("split") == "train" and finite(line.get("seconds")))
    return times[len(times) // 2] if times else None


def _once(parts: Mapping[str, Points], share: bool) -> Markup:
    """One value each: in words, as there is nothing to draw a line through."""
    said = [f"{name} {percent(y) if share else number(y)} at step {x:g}" for name, ((x, y),) in parts.items()]
    return Markup('<p class="once">{}</p>').format(", ".join(said))


def _title(key: str) -> str:
    words = label(key)
    first = words.split(" ")[0]
    return words[:1].upper() + words[1:] if first.islower() else words  # mIoU keeps its spelling


def _whole_percent(value: float) -> str:
    return percent(value) if abs(100 * value - round(100 * value)) > 1e-6 else f"{round(100 * value)} %"


def _over_stages(
    metrics: Sequence[Mapping[str, Any]],
) -> tuple[list[tuple[float, Mapping[str, Any]]], list[tuple[float, str]]]:
    """((step counted over all stages, line)), and where each stage starts with its name."""
    lines: list[tuple[float, Mapping[str, Any]]] = []
    starts: list[tuple[float, str]] = []
    offset = last = 0.0
    stage: Any = None
    for line in metrics:
        name, step = line.get("stage"), line.get("step")
        if name == FINAL or not finite(step):
            continue
        place = (line.get("stage_number"), name)
        if place != stage:
            stage, offset = place, last
            starts.append((offset, str(name)))
        last = max(last, offset + step)
        lines.append((offset + step, line))
    return lines, starts


def _series(lines: Sequence[tuple[float, Mapping[str, Any]]], split: str) -> dict[str, Points]:
    series: dict[str, Points] = {}
    for step, line in lines:
        if line.get("split") == split:
            for key, value in line.items():
                if key not in PLACE and is_number(value):
                    series.setdefault(key, []).append((step, float(value)))
    return series
