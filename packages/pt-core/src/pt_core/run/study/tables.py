"""All cells as one table, and what settings that differ by seed only have in common."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pt_core.run.declare.numbers import finite
from pt_core.run.study.cells import Cell
from pt_core.run.study.folder import Record, StudyFolder
from pt_core.task import LOWER_IS_BETTER

CONFIDENCE = 0.95


def rows(study: StudyFolder, cells: Sequence[Cell], records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row per cell: what it is, what became of it, and its results as `ROLE/METRIC`."""
    points = list(dict.fromkeys(key for cell in cells for key in cell.told.point))
    found = []
    for cell in cells:
        record = records.get(cell.name)
        status = study.status(record) if record is not None and record.status == "finished" else {}
        results = {
            f"{role}/{name}": value
            for role, metrics in status.get("results", {}).items()
            for name, value in metrics.items()
        }
        found.append(
            {
                "cell": cell.name,
                "group": cell.told.group,
                "method": cell.spec.method,
                "data": cell.told.data,
                "start": ", ".join(name for _, name in cell.starts),
                "seed": cell.told.seed,
                **{key: _text(cell.told.point.get(key)) for key in points},
                "status": record.status if record else "waiting",
                "message": record.message if record else "",
                "tuned": status.get("parameters", {}).get("tuned"),
                "fit_seconds": status.get("time", {}).get("fit_seconds"),
                **results,
                "folder": f"cells/{record.folder}" if record else "",
            }
        )
    return found


def _text(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, type(None))) else str(value)


def leading(study: StudyFolder, records: Mapping[str, Record]) -> tuple[str, str]:
    """(column, max or min) that cells are judged by: what the runs select by, on the test part where all have one."""
    statuses = [study.status(record) for record in records.values() if record.status == "finished"]
    results = [status.get("results", {}) for status in statuses]
    part = "test" if results and all("test" in found for found in results) else "val"
    chosen = {tuple(status["select"]) for status in statuses if status.get("select")}
    if len(chosen) == 1:
        ((name, mode),) = chosen
        return f"{part}/{name}", mode
    shared = [
        name for name in (results[0].get(part, {}) if results else {}) if all(name in r.get(part, {}) for r in results)
    ]
    name = shared[0] if shared else "accuracy"
    return f"{part}/{name}", "min" if name.partition("/")[0] in LOWER_IS_BETTER else "max"


@dataclass(frozen=True)
class Setting:
    """Cells that differ by seed only.

    Attributes:
        where: (group, data): settings are compared with those of the same place only.
        start: what they start from, without its seed; empty where nothing.
        values: seed -> result of the finished cells that have one.
    """

    where: tuple[str, str]
    name: str
    start: str
    cells: int
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def std(self) -> float:
        """Sample standard deviation; nan for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Student's interval of the mean; (nan, nan) for fewer than two values."""
        if len(self.values) < 2:
            return math.nan, math.nan
        from scipy.stats import t

        size = len(self.values)
        half = float(t.ppf((1 + CONFIDENCE) / 2, size - 1)) * self.std / math.sqrt(size)
        return self.mean - half, self.mean + half


def settings(cells: Sequence[Cell], table: Sequence[Mapping[str, Any]], metric: str) -> list[Setting]:
    """The settings of a study, in its order."""
    places = {cell.name: number for number, cell in enumerate(cells)}
    found: dict[tuple[Any, ...], list[int]] = {}
    for number, cell in enumerate(cells):
        found.setdefault(_setting_key(cells, places, cell), []).append(number)
    made = []
    for members in found.values():
        first = cells[members[0]]
        values = {
            cells[n].told.seed: float(table[n][metric])
            for n in members
            if table[n]["status"] == "finished" and finite(table[n].get(metric))
        }
        start = ", ".join(_start_text(cells[places[name]]) for _, name in first.starts)
        where = (first.told.group, first.told.data)
        made.append(Setting(where, _setting_text(first), start, len(members), values))
    return made


def best(group: Sequence[Setting], mode: str) -> Setting | None:
    """The setting that may be called the best: its whole interval is beyond that of every other. None where no setting is."""
    sign = 1 if mode == "max" else -1
    judged = [setting for setting in group if setting.values]
    if len(judged) < 2 or any(len(setting.values) < 2 for setting in judged):
        return None
    ends = [sorted(sign * end for end in setting.interval) for setting in judged]
    top = max(range(len(judged)), key=lambda number: sign * judged[number].mean)
    others = [high for number, (_, high) in enumerate(ends) if number != top]
    return judged[top] if ends[top][0] > max(others) else None


def _setting_key(cells: Sequence[Cell], places: Mapping[str, int], cell: Cell) -> tuple[Any, ...]:
    told = cell.told
    starts = tuple((role, _setting_key(cells, places, cells[places[name]])) for role, name in cell.starts)
    options = repr(sorted(told.options.items(), key=str))
    return told.group, told.method, told.data, told.sources, options, told.recipe, starts


def _setting_text(cell: Cell) -> str:
    shown = ", ".join(f"{key}={value}" for key, value in cell.told.point.items())
    return f"{cell.spec.method} {shown}".strip()


def _start_text(cell: Cell) -> str:
    shown = [cell.told.data, *(f"{key}={value}" for key, value in cell.told.point.items())]
    return " ".join(part for part in shown if part) or cell.told.group or cell.spec.method
