"""Rows of a table are put in time, not in the order of letters; what can be read in two ways is refused."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest
from pt_core.errors import DataError
from pt_timeseries.data.sources import read
from pt_timeseries.data.times import read_times
from pt_timeseries.options import DataOptions

WINDOW = 4


def series(tmp_path, times, options=None, name="d.csv", mixed=None):
    """The channel of one series whose step k, in time, has the value 10 k; rows stand in the order `mixed`."""
    order = list(range(len(times))) if mixed is None else mixed
    frame = pd.DataFrame({"domain": "a", "series": "s", "time": times, "x": 10.0 * np.arange(len(times))}).iloc[order]
    path = tmp_path / name
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    found = read(str(path), options or DataOptions(window=len(times), stride=len(times)), 0)
    return found.items[0].values[0, 0].tolist()


RISING = [0.0, 10.0, 20.0, 30.0]
SHUFFLED = [2, 0, 3, 1]


@pytest.mark.parametrize(
    "times",
    [
        ["12/31/2023", "01/01/2024", "01/02/2024", "01/03/2024"],
        ["31/12/2023", "01/01/2024", "02/01/2024", "03/01/2024"],
        ["30.12.23", "31.12.23", "01.01.24", "02.01.24"],
        ["12/31/2023 11:00 PM", "01/01/2024 1:00 AM", "01/01/2024 2:00 AM", "01/01/2024 12:00 PM"],
        ["2023-12-31 23:59:59.5", "2024-01-01", "2024-01-01T09:00:00", "2024-01-01T10:00:00Z"],
        ["Dec 31 2023", "Jan 1 2024", "Feb 1 2024", "Mar 1 2024"],
        ["9", "10", "11", "100"],
        ["-1.5", "2e0", "10", "1e2"],
    ],
)
def test_times_are_parsed_whatever_the_order_of_rows(tmp_path, times):
    assert series(tmp_path, times, mixed=SHUFFLED) == RISING
    assert series(tmp_path, times) == RISING


def test_times_of_day_rise_or_are_refused(tmp_path):
    assert series(tmp_path, ["9:00", "10:00", "11:00", "11:00:30.5"]) == RISING
    with pytest.raises(DataError, match=r"column 'time' .* series 's' has times of day that fall.*--drop-columns"):
        series(tmp_path, ["22:00", "23:00", "0:00", "1:00"])
    at = [datetime.datetime(2024, 1, 1, 23), datetime.datetime(2024, 1, 2, 0), datetime.datetime(2024, 1, 2, 1)]
    assert series(tmp_path, [*at, datetime.datetime(9999, 1, 1)], name="d.parquet", mixed=SHUFFLED) == RISING


def test_a_date_that_can_be_read_in_two_ways_needs_a_format(tmp_path):
    times = ["01/02/2024", "02/01/2024", "03/01/2024", "04/01/2024"]
    with pytest.raises(DataError, match="day first and month first; say which with --time-format"):
        series(tmp_path, times)
    options = DataOptions(window=WINDOW, stride=WINDOW, time_format="%m/%d/%Y")
    assert series(tmp_path, times, options) == RISING
    options = DataOptions(window=WINDOW, stride=WINDOW, time_format="%d/%m/%Y")
    assert series(tmp_path, times, options) == [10.0, 20.0, 30.0, 0.0]
    same_day = ["01/02/2024 10:00", "01/02/2024 10:30", "01/02/2024 11:00", "01/02/2024 12:00"]
    assert series(tmp_path, same_day, mixed=SHUFFLED) == RISING  # both readings give one order


@pytest.mark.parametrize(
    ("times", "form", "message"),
    [
        (
            ["t0", "t1", "t2", "t10"],
            None,
            "column 'time' of .* holds 't0', which is no number, date or time.*--drop-columns",
        ),
        (["1", "2", "later", "4"], None, "holds 'later', which is no number"),
        (
            ["2024-01-01", "2024-02-30", "2024-03-01", "2024-04-01"],
            None,
            "holds '2024-02-30', which is no number, date",
        ),
        (["1", "2", "3", "x"], "%d", "holds 'x', which is not of --time-format '%d'"),
        (["1", "2", "3", "4"], "%Q", "--time-format '%Q' is no format"),
        (["1", "2", "", "4"], None, "line 4: column 'time' has empty cells"),
        ([True, False, True, True], None, "true and false|no number"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, times, form, message):
    with pytest.raises(DataError, match=message):
        series(tmp_path, times, DataOptions(window=WINDOW, stride=WINDOW, time_format=form))


def test_text_times_can_be_left_out_or_given_a_format(tmp_path):
    kept = DataOptions(window=WINDOW, stride=WINDOW, drop_columns=("time",))
    assert series(tmp_path, ["t0", "t1", "t2", "t10"], kept) == RISING
    assert series(tmp_path, ["t10", "t2", "t1", "t0"], kept, mixed=[3, 2, 1, 0]) == RISING[::-1]
    with pytest.raises(DataError, match="--time-format is given, but .* has no time column"):
        series(tmp_path, ["t0", "t1", "t2", "t10"], DataOptions(window=4, drop_columns=("time",), time_format="%d"))


def test_without_a_time_column_rows_stay_in_the_order_of_the_file(tmp_path):
    pd.DataFrame({"domain": "a", "series": 1, "x": [3.0, 1.0, 2.0, 5.0]}).to_csv(tmp_path / "d.csv", index=False)
    found = read(str(tmp_path / "d.csv"), DataOptions(window=4, stride=4), 0)
    assert found.items[0].values[0, 0].tolist() == [3.0, 1.0, 2.0, 5.0]


def test_whole_numbers_are_compared_exactly():
    ticks = pd.Series([1700000000000000001, 1700000000000000000])  # equal as floats
    found = read_times(ticks, None, "t").order(np.arange(2), "s")
    assert found.tolist() == [1, 0]
