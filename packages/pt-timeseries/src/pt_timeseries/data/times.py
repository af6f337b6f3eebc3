"""Times of a table as numbers that can be compared: numbers, dates, or times of day. What can be read in two ways is not guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

DAYS = ("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%m/%d/%y", "%d/%m/%y")
"""Orders of year, month and day that are tried on dates of numbers; with dots and dashes too."""
HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
SAMPLE = 200
"""Rows by which formats are ruled out before a whole column is read."""
CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")
ISO = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?")
MONTH = re.compile(r"(?<![a-z])(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
NUMBERS = re.compile(r"\d{1,4}([/.-])\d{1,2}\1\d{1,4}(\s.*)?")


@dataclass(frozen=True)
class Times:
    """One time per row.

    Attributes:
        readings: the ways in which the column can be read, each (row,) numbers; orders of series are only told apart where they agree.
        dated: False for times of day, which start again after midnight.
        what: the column, for messages.
    """

    readings: Sequence[NDArray[Any]]
    dated: bool
    what: str

    def order(self, rows: NDArray[np.int64], series: str) -> NDArray[np.int64]:
        """The rows of one series in time; of equal times, as in the file.

        Raises:
            DataError: two readings give two orders, or times of day that do not rise.
        """
        found = [rows[np.argsort(reading[rows], kind="stable")] for reading in self.readings]
        if any(not np.array_equal(found[0], other) for other in found[1:]):
            raise DataError(
                f"{self.what} of series {series!r} has dates that can be read day first and month first; say which with --time-format"
            )
        if not self.dated and not np.array_equal(found[0], rows):
            raise DataError(
                f"{self.what} of series {series!r} has times of day that fall (past midnight?): give dates too, or bring the rows in order "
                "and leave the column out with --drop-columns"
            )
        return found[0]


def read_times(cells: Any, form: str | None, what: str) -> Times:
    """Times of a pandas column.

    Args:
        form: `strptime` format, or None to find out.

    Raises:
        DataError: a cell that is no time, or not of the format; names it.
    """
    import pandas as pd

    kind = getattr(cells.dtype, "kind", "O")
    if form is None and kind in "fiu":
        return Times([cells.to_numpy()], True, what)
    if form is None and kind in "mM":
        return Times([_ticks(cells)], True, what)
    if kind == "b":
        raise DataError(f"{what} holds true and false; leave it out with --drop-columns to keep the order of the file")
    texts = cells.astype(str).str.strip()
    if form is not None:
        dated = any(f"%{letter}" in form for letter in "dDjmbBxc")
        return Times([_ticks(_parsed(texts, form, what))], dated, what)
    numbers = pd.to_numeric(texts, errors="coerce")
    if not numbers.isna().any():
        return Times([numbers.to_numpy()], True, what)
    if _all(CLOCK, texts):
        whole = texts.where(texts.str.count(":") > 1, texts + ":00")
        return Times([_ticks(pd.to_timedelta(whole))], False, what)
    return Times(_dates(texts, what), True, what)


def _dates(texts: Any, what: str) -> list[NDArray[Any]]:
    import pandas as pd

    if _all(ISO, texts):
        found = [pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)]
    elif texts.str.contains(MONTH).all():  # a month by its name cannot be taken for a day
        found = [pd.to_datetime(texts, errors="coerce", utc=True, format="mixed")]
    elif _all(NUMBERS, texts):
        even = texts.str.replace(r"^(\d+)[.-](\d+)[.-]", r"\1/\2/", regex=True).str.replace(r"\s+", " ", regex=True)
        forms = [day + hour for day in DAYS for hour in HOURS]
        forms = [form for form in forms if _fits(even.iloc[:SAMPLE], form)]
        found = [pd.to_datetime(even, format=form, errors="coerce", utc=True) for form in forms]
    else:
        found = []
    found = [values for values in found if not values.isna().any()]
    if not found:
        bad = pd.to_numeric(texts, errors="coerce").isna()
        if bad.mean() > 0.5:  # dates, most likely: which of them is none?
            bad = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True).isna()
        odd = texts.iloc[int(bad.to_numpy().argmax())]
        raise DataError(
            f"{what} holds {odd!r}, which is no number, date or time of day like the others; say how times are written with --time-format, "
            "or leave the column out with --drop-columns to keep the order of the file"
        )
    return [_ticks(values) for values in found]


def _fits(texts: Any, form: str) -> bool:
    import pandas as pd

    return not pd.to_datetime(texts, format=form, errors="coerce", utc=True).isna().any()


def _parsed(texts: Any, form: str, what: str) -> Any:
    import pandas as pd

    try:
        found = pd.to_datetime(texts, format=form, errors="coerce", utc=True)
    except ValueError as error:
        raise DataError(f"--time-format {form!r} is no format of times ({' '.join(str(error).split())[:80]})") from None
    if found.isna().any():
        row = int(found.isna().to_numpy().argmax())
        raise DataError(f"{what} holds {texts.iloc[row]!r}, which is not of --time-format {form!r}")
    return found


def _all(pattern: re.Pattern[str], texts: Any) -> bool:
    return bool(texts.str.fullmatch(pattern).all())


def _ticks(values: Any) -> NDArray[np.int64]:
    """Whole numbers that rise with time, in the column's own unit."""
    ticks: NDArray[np.int64] = values.astype("int64").to_numpy()
    return ticks
