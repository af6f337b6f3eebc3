"""Tables as data frames: names of domains, series and classes stay the texts of the file; what is no channel is refused or left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError, nearest

from pt_timeseries.data.cells import class_texts, is_empty, name_texts

UNNAMED = re.compile(r"(Unnamed: \d+(_level_\d+)?(\.\d+)?|__index_level_\d+__|\s*)")
"""Names that pandas gives to columns without a name; almost always a saved index."""
COUNTERS = ("index", "level_0", "level_1", "row", "row_id", "rowid", "row_number", "unnamed")
"""Names of columns that count rows."""
NO_NUMBER = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None", "?")
"""Texts that stand for a missing number in a channel."""


def read_frame(path: Path, texts: Sequence[str | None]) -> Any:
    """The table of a CSV, TSV or Parquet file; columns named in `texts` keep the characters of the file (`01` stays `01`).

    Raises:
        DataError: not such a table.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            return frame.reset_index() if any(name is not None for name in frame.index.names) else frame
        separator = "\t" if path.suffix == ".tsv" else ","
        names = list(pd.read_csv(path, sep=separator, nrows=0).columns)
        kept = {name: str for name in texts if name in names}
        missing = {name: list(NO_NUMBER) for name in names if name not in kept}
        frame = pd.read_csv(
            path, sep=separator, dtype=kept, keep_default_na=False, na_values=missing, low_memory=False
        )  # fmt: skip
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise DataError(f"{path} cannot be read as a table ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{path} has rows of more cells than its first line has names; give every column a name")
    return frame


def header(path: Path) -> list[str]:
    """Names of a table's columns.

    Raises:
        DataError: not a table.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return [str(name) for name in parquet.read_schema(path).names]
        return [str(name) for name in pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", nrows=0).columns]
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise DataError(f"{path} cannot be read as a table ({' '.join(str(error).split())[:120]})") from None


def without(frame: Any, names: Sequence[str], path: Path, notes: list[str]) -> Any:
    """The table without the columns that the user leaves out, and without those that have no name.

    Raises:
        DataError: there is no such column.
    """
    known = [str(name) for name in frame.columns]
    for name in names:
        if name not in known:
            raise DataError(
                f"--drop-columns {name!r}: {path} has no such column{nearest(name, known)}; it has: {', '.join(known)}"
            )
    unnamed = [name for name in frame.columns if UNNAMED.fullmatch(str(name)) and str(name) not in names]
    if unnamed:
        notes.append(
            f"{path.name}: {len(unnamed)} column without a name is left out (a saved index?)"
            if len(unnamed) == 1
            else f"{path.name}: {len(unnamed)} columns without a name are left out (saved indices?)"
        )
    return frame.drop(columns=[*names, *unnamed])


def check_channels(frame: Any, channels: Sequence[Any], series: int, path: Path) -> None:
    """Refuse columns that are no measurements, naming the flag that leaves them out.

    Args:
        series: how many series the table holds; a column that counts on from one to the next counts rows.

    Raises:
        DataError: text, true and false, dates, or a counter of the file's rows.
    """
    for name in channels:
        kind = frame[name].dtype.kind
        if kind not in "fiu":
            said = {"b": "true and false", "M": "dates", "m": "durations"}.get(kind, "text")
            raise DataError(
                f"{path}: column {name!r} is not numeric ({said}); channels must be numbers: leave it out with --drop-columns {name}"
            )
        if (str(name).lower() in COUNTERS or series > 1) and _counts(frame[name]):
            raise DataError(
                f"{path}: column {name!r} counts the rows of the file, a saved index; leave it out with --drop-columns {name}"
            )


def _counts(column: Any) -> bool:
    if len(column) < 3 or column.isna().any():
        return False
    values = column.to_numpy(np.float64)
    return bool((np.diff(values) == 1).all())


def named(frame: Any, column: Any, what: str, path: Path, classes: bool = False) -> NDArray[np.object_]:
    """(row,) texts of a column that names domains, series, recordings or classes.

    Raises:
        DataError: an empty cell, a list, or for `classes` a number with a fraction that is no text; names the row.
    """
    first, cells = 0 if path.suffix == ".parquet" else 2, frame[column]
    try:
        codes, distinct = cells.factorize(use_na_sentinel=False)
    except TypeError:  # lists cannot be looked up
        codes, distinct = np.arange(len(cells)), cells.tolist()

    def place(number: int) -> str:
        return f"{path}, {'line' if first else 'row'} {int((codes == number).argmax()) + first}"

    names = (class_texts if classes else name_texts)(distinct, f"{what} (column {column!r})", place)
    texts: NDArray[np.object_] = np.array([*names, None], dtype=object)[codes]
    return texts


def check_filled(frame: Any, column: Any, path: Path) -> None:
    """Refuse empty cells of a column of times.

    Raises:
        DataError: names the row.
    """
    empty = frame[column].isna() | frame[column].astype(str).map(is_empty)
    if empty.any():
        first = 0 if path.suffix == ".parquet" else 2
        row = int(empty.to_numpy().argmax()) + first
        raise DataError(
            f"{path}, {'line' if first else 'row'} {row}: column {column!r} has empty cells; fill them in or remove the rows"
        )
