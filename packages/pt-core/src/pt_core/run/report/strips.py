"""Results of several seeds as points, a line per setting, with mean and interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pt_core.run.report.plots import LINE, SERIES, SOFT, draw, short
from pt_core.run.report.values import finite

MAX_STRIPS = 60


@dataclass(frozen=True)
class Strip:
    """One line: the values, their mean, and its interval (nan, nan) where there is none."""

    name: str
    values: Sequence[float]
    mean: float
    interval: tuple[float, float]


def strips(
    key: str,
    title: str,
    given: Sequence[Strip],
    x_label: str,
    tick: Callable[[float], str],
    bounds: tuple[float, float],
) -> Markup:
    """Horizontal lines, the first on top, up to MAX_STRIPS; intervals are drawn as far as values can be (`bounds`)."""
    shown = list(given)[:MAX_STRIPS]

    def paint(figure: Any, axes: Any) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        for row, strip in enumerate(shown):
            low, high = strip.interval
            if finite(low) and finite(high):
                axes.plot([max(low, bounds[0]), min(high, bounds[1])], [row, row], color=SOFT, linewidth=1.2)
            axes.plot(strip.values, [row] * len(strip.values), "o", color=SERIES[0], markersize=4, alpha=0.7)
            axes.plot([strip.mean], [row], "|", color=SERIES[1], markersize=12, markeredgewidth=2)
        axes.set_yticks(range(len(shown)), [short(strip.name, 40) for strip in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.grid(color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))

    return draw(key, title, (6.4, 0.26 * len(shown) + 0.8), paint)
