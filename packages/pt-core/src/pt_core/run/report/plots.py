"""Plots as inline SVG, drawn with matplotlib's object interface (no global state)."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#6b7280"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any) -> Markup:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "pt", "svg.fonttype": "path"}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # A fixed size would overflow a phone; the viewBox keeps the proportions.
    return Markup(
        re.sub(
            r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
        )
    )


def line(points: Sequence[tuple[float, float]], x: str, y: str) -> Markup:
    return lines({y: points}, x, y, legend=False)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, legend: bool = True) -> Markup:
    figure = _figure(4.6, 2.7)
    axes = figure.add_subplot()
    for (name, points), colour in zip(series.items(), (BLUE, ORANGE, GREY), strict=False):
        marker = "o" if len(points) <= 12 else None
        axes.plot(
            [p[0] for p in points],
            [p[1] for p in points],
            color=colour,
            label=name,
            marker=marker,
            markersize=3.5,
            linewidth=1.6,
        )
    _style(axes, x, y)
    if legend and len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def bars(values: Mapping[str, float]) -> Markup:
    figure = _figure(6.4, max(1.6, 0.24 * len(values) + 0.6))
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()), color=BLUE, height=0.7)
    axes.invert_yaxis()
    _style(axes, "mean row norm", "")
    return _svg(figure)


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    import numpy as np

    counts = np.asarray(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = max(3.4, 0.34 * len(labels) + 1.4)
    figure = _figure(size, size)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    short = [label if len(label) <= 16 else label[:15] + "…" for label in labels]
    axes.set_xticks(range(len(labels)), short, rotation=90 if max(map(len, short)) > 3 else 0, fontsize=8)
    axes.set_yticks(range(len(labels)), short, fontsize=8)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    if len(labels) <= 25:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.55 else "black"
                axes.text(column, row, f"{int(count)}", ha="center", va="center", fontsize=7, color=colour)
    axes.tick_params(length=0)
    return _svg(figure)


def scatter(rows: Sequence[Mapping[str, Any]]) -> Markup:
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot()
    for row in rows:
        spread = row["std"] if row["std"] == row["std"] else None
        axes.errorbar(row["tuned"], row["accuracy"], yerr=spread, fmt="o", color=BLUE, capsize=3)
        axes.annotate(
            row["run"], (row["tuned"], row["accuracy"]), textcoords="offset points", xytext=(6, 6), fontsize=8
        )
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.18)
    _style(axes, "tuned parameters", "accuracy")
    return _svg(figure)


def _style(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
