"""A small grid search. It sees one number per point, and that number comes from validation data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pt_core.errors import ConfigError, UserError

Mode = Literal["max", "min"]
MAX_POINTS = 1000


@dataclass(frozen=True)
class SearchResult:
    """Values of all points, in the order of the grid."""

    points: Sequence[Mapping[str, Any]]
    values: Sequence[float]
    mode: Mode
    index: int
    """Position of the best point."""

    @property
    def best(self) -> Mapping[str, Any]:
        return self.points[self.index]

    def table(self) -> str:
        """One line per point in columns, the best one marked."""
        names = list(self.points[0])
        cells = [[*names, "validation"]]
        cells += [
            [*(str(p[name]) for name in names), f"{v:.4f}"] for p, v in zip(self.points, self.values, strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        lines[self.index + 1] += "  <- best"
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Points with their values (None where not finite), the mode and the best point."""
        values = [value if math.isfinite(value) else None for value in self.values]
        points = [{**point, "validation": value} for point, value in zip(self.points, values, strict=True)]
        return {"mode": self.mode, "points": points, "best": dict(self.best)}


def parse_grid(specs: Sequence[str]) -> list[dict[str, str]]:
    """`["lr=0.1,0.01", "weight_decay=0"]` -> all combinations, the last name varying fastest.

    Values stay text; whether the names are options and the values fit them is for the caller to check.

    Raises:
        ConfigError: all malformed entries, names given twice, and values given twice (0.1 and 1e-1 are the same).
    """
    axes: dict[str, list[str]] = {}
    problems = []
    for spec in specs:
        name, found, text = spec.partition("=")
        name, values = name.strip().replace("-", "_"), [value.strip() for value in text.split(",")]
        if not found or not all(part.isidentifier() for part in name.split(".")) or not all(values):
            problems.append(f"--search {spec!r} is not of the form NAME=V1,V2,...")
            continue
        if name in axes:
            problems.append(f"--search names {name!r} twice; list all its values in one NAME=V1,V2,...")
        known = [_canonical(value) for value in values]
        twice = [value for number, value in enumerate(values) if known[number] in known[:number]]
        problems.extend(f"--search {name}: value {value!r} is given twice" for value in twice)
        axes[name] = values
    if not specs:
        problems.append("--search needs NAME=V1,V2,...")
    count = math.prod(map(len, axes.values()))
    if count > MAX_POINTS:
        problems.append(f"--search spans {count:,} points, more than {MAX_POINTS:,}; leave out some values")
    if problems:
        raise ConfigError(problems)
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def search(
    points: Sequence[Mapping[str, Any]], evaluate: Callable[[Mapping[str, Any]], float], mode: Mode
) -> SearchResult:
    """Evaluate every point and take the best; of equal ones the first in the order given (VPT: the smallest lr first).

    Args:
        points: at least one.
        evaluate: trains with a point and returns its value on validation data. nan is worse than everything.
        mode: whether a larger or a smaller value is better.

    Raises:
        UserError: no point has a value.
    """
    values = [float(evaluate(point)) for point in points]
    sign = 1 if mode == "max" else -1
    ranked = [number for number, value in enumerate(values) if not math.isnan(value)]
    if not ranked:
        raise UserError(f"none of the {len(points)} points of the search has a value on validation; widen the grid")
    return SearchResult(points, values, mode, max(ranked, key=lambda number: (sign * values[number], -number)))


def _canonical(value: str) -> float | str:
    try:
        number = float(value)
    except ValueError:
        return value
    return value if math.isnan(number) else number
