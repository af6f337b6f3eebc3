"""A study on disk: its cells and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.run.study.cells import Cell
from pt_core.run.study.folder import Record, StudyFolder
from pt_core.run.study.tables import rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """A study on disk: its cells and what became of them."""

    path: Path
    cells: Sequence[Cell]
    records: Mapping[str, Record]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A mapping per cell, as in results.csv."""
        return rows(StudyFolder(self.path), self.cells, self.records)

    @property
    def table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows)

    def count(self, status: str) -> int:
        if status == "waiting":
            return sum(cell.name not in self.records for cell in self.cells) + self._with(status)
        return self._with(status)

    def _with(self, status: str) -> int:
        return sum(record.status == status for record in self.records.values())

    def summary(self) -> str:
        kinds = ("finished", "failed", "interrupted", "running", "waiting")
        counts = [f"{self.count(kind)} {kind}" for kind in kinds if self.count(kind)]
        return f"{len(self.cells)} cells: {', '.join(counts)}"

    def run(self, cell: str) -> Path:
        """The run folder of a cell."""
        return StudyFolder(self.path).run(self.records[cell])
