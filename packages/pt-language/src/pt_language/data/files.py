"""Tables in files: CSV, TSV, JSON, JSON lines, Parquet and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import DataError

from pt_language.data.places import check_file

if TYPE_CHECKING:
    import pandas as pd


def read_file(path: Path) -> pd.DataFrame:
    """One file as a table.

    Raises:
        DataError: missing, of another kind, or not readable.
    """
    check_file(path)
    import pandas as pd  # a second, which a text that is typed need not wait for

    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            frame = pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
        elif suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif suffix == ".txt":
            frame = pd.DataFrame({"text": [line for line in path.read_text("utf-8").splitlines() if line.strip()]})
        else:
            frame = pd.DataFrame(_objects(path))
    except (ValueError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:160]}") from None
    if frame.empty:
        raise DataError(f"{path} has no rows")
    return frame


def _objects(path: Path) -> list[dict[str, Any]]:
    text = path.read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    found = json.loads(text) if path.suffix.lower() == ".json" else [json.loads(line) for line in lines]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise DataError(f"{path} must hold a list of objects")
    return found
