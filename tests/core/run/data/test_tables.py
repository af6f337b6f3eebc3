"""Tables of records: what is written is read back, and Arrow columns are what pyarrow itself would make of the values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pt_core.run.data.columns import arrow_table
from pt_core.run.data.tables import write_table

ROWS = [
    {"id": "a", "label": "ü", "score": 0.25, "correct": True, "count": 3, "mixed": 1, "none": None, "parts": [1, 2]},
    {"id": "b", "label": None, "score": None, "correct": None, "count": None, "mixed": 2.5, "none": None, "late": "x"},
    {"id": "", "label": "c", "score": float("inf"), "correct": False, "count": -(2**60), "mixed": 3, "none": None},
] * 3


def test_columns_are_what_pyarrow_makes_of_the_values() -> None:
    names = list(dict.fromkeys(name for row in ROWS for name in row))
    found = arrow_table(ROWS)
    expected = pa.table({name: [row.get(name) for row in ROWS] for name in names})
    found.validate(full=True)
    assert found.schema == expected.schema
    assert found.equals(expected)


@pytest.mark.parametrize("values", [[], [None], [2**63], [b"x", None], [{"a": 1}, {"a": 2}]])
def test_rare_values_are_pyarrows_to_judge(values: list) -> None:
    found = arrow_table([{"x": value} for value in values])
    assert found.to_pylist() == [{"x": value} for value in values]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_records_are_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"records{suffix}"
    write_table(path, ROWS)
    if suffix == ".jsonl":
        assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
        return
    frame = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
    assert frame["id"].tolist() == [row["id"] for row in ROWS]
    assert json.loads(frame["parts"][0]) == [1, 2]


def test_a_table_is_written_without_pandas(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from pt_core.run.data.tables import write_table
write_table(Path({str(tmp_path)!r}) / "x.parquet", [{{"id": "a", "score": 0.5, "correct": None}}])
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
