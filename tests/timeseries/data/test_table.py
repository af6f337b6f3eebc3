"""What columns of a table are: names as they are written, channels, and what is left out or refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pt_core.errors import DataError
from pt_timeseries.data.sources import read
from pt_timeseries.options import DataOptions

OPTIONS = DataOptions(window=4, stride=4)
RNG = np.random.default_rng(0)


def frame(**changes) -> pd.DataFrame:
    table = {
        "subject": np.repeat(["01", "02"], 8),
        "id": np.repeat(["a", "b", "c", "d"], 4),
        "t": [*range(4)] * 4,
        "acc": RNG.normal(size=16),
        "label": np.repeat(["x", "y", "x", "y"], 4),
    }
    return pd.DataFrame({**table, **changes})


def write(tmp_path, table: pd.DataFrame, name: str = "d.csv", **options) -> str:
    path = tmp_path / name
    if path.suffix == ".parquet":
        table.to_parquet(path, **options)
    else:
        table.to_csv(path, **{"index": False, "sep": "\t" if path.suffix == ".tsv" else ",", **options})
    return str(path)


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.parquet"])
def test_domains_and_classes_keep_their_characters(tmp_path, name):
    table = frame(label=np.repeat(["1.0", "007", "1.0", "None"], 4))
    found = read(write(tmp_path, table, name), OPTIONS, 0)
    assert found.names == ["01", "02"]
    assert [list(d.labels) for d in found.items] == [["1.0", "007"], ["1.0", "None"]]
    assert [list(d.groups) for d in found.items] == [["a", "b"], ["c", "d"]]
    np.testing.assert_allclose(found.items[1].values[:, 0].ravel(), table["acc"][8:], rtol=1e-6)


def test_a_saved_index_is_no_channel(tmp_path):
    plain = read(write(tmp_path, frame(acc=np.arange(16.0) ** 2)), OPTIONS, 0)
    found = read(write(tmp_path, frame(acc=np.arange(16.0) ** 2), "i.csv", index=True), OPTIONS, 0)
    assert found.items[0].values.shape == (2, 1, 4)
    np.testing.assert_array_equal(found.items[0].values, plain.items[0].values)
    assert "i.csv: 1 column without a name is left out (a saved index?)" in found.notes
    pandas_index = read(write(tmp_path, frame(acc=np.arange(16.0) ** 2).iloc[::1], "i.parquet", index=True), OPTIONS, 0)
    np.testing.assert_array_equal(pandas_index.items[1].values, plain.items[1].values)


@pytest.mark.parametrize("name", ["index", "level_0", "counted"])
def test_a_column_that_counts_rows_is_refused_by_name(tmp_path, name):
    path = write(tmp_path, frame(**{name: np.arange(100, 116)}))
    with pytest.raises(DataError, match=f"column '{name}' counts the rows of the file.*--drop-columns {name}"):
        read(path, OPTIONS, 0)
    found = read(path, DataOptions(window=4, stride=4, drop_columns=(name,)), 0)
    assert found.items[0].values.shape == (2, 1, 4)


def test_a_ramp_that_starts_again_in_every_series_is_a_channel(tmp_path):
    found = read(write(tmp_path, frame(ramp=[*range(4)] * 4)), OPTIONS, 0)
    assert found.items[0].values[0, 1].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("column", "said"),
    [(["note"] * 16, "text"), ([True, False] * 8, "true and false"), (pd.date_range("2024", periods=16), "text|dates")],
)
@pytest.mark.parametrize("name", ["d.csv", "d.parquet"])
def test_columns_that_are_no_numbers_name_the_flag(tmp_path, column, said, name):
    path = write(tmp_path, frame(note=column), name)
    with pytest.raises(DataError, match=rf"column 'note' is not numeric \(({said})\).*--drop-columns note"):
        read(path, OPTIONS, 0)
    assert read(path, DataOptions(window=4, stride=4, drop_columns=("note",)), 0).items[0].values.shape == (2, 1, 4)


def test_columns_left_out_must_be_there(tmp_path):
    with pytest.raises(DataError, match="--drop-columns 'lable'.*did you mean 'label'"):
        read(write(tmp_path, frame()), DataOptions(drop_columns=("lable",)), 0)


@pytest.mark.parametrize("empty", ["", "nan", " NA "])
@pytest.mark.parametrize(("column", "what"), [("label", "the class"), ("subject", "domain"), ("id", "series")])
def test_empty_names_are_refused_by_line(tmp_path, empty, column, what):
    table = frame()
    table[column] = table[column].astype(object)
    table.loc[5, column] = empty
    with pytest.raises(DataError, match=rf"d.csv, line 7: {what} \(column '{column}'\) is empty"):
        read(write(tmp_path, table), OPTIONS, 0)


def test_lists_and_fractions_are_no_classes(tmp_path):
    lists = frame()
    lists["label"] = [["pos", "x"]] * 16
    with pytest.raises(DataError, match="d.parquet, row 0: the class .*pos.*one name is needed"):
        read(write(tmp_path, lists, "d.parquet"), OPTIONS, 0)
    with pytest.raises(DataError, match=r"row 4: the class .* is 0.5; classes are names or whole numbers"):
        read(write(tmp_path, frame(label=np.repeat([1.0, 0.5], [4, 12])), "d.parquet"), OPTIONS, 0)
    whole = read(write(tmp_path, frame(label=np.repeat([1.0, 2.0], 8)), "d.parquet"), OPTIONS, 0)
    assert whole.classes == ("1", "2")


def test_numbers_to_predict_are_no_classes(tmp_path):
    count = 60
    table = pd.DataFrame({"user": "a", "id": np.repeat(range(count), 4), "acc": RNG.normal(size=4 * count)})
    table["y"] = np.repeat(np.linspace(0, 1, count).round(4), 4)
    with pytest.raises(DataError, match="60 different numbers as labels of 60 windows; classes are predicted here"):
        read(write(tmp_path, table), OPTIONS, 0)


def test_tables_without_rows_or_with_too_many_cells(tmp_path):
    (tmp_path / "e.csv").write_text("domain,series,time,x\n")
    with pytest.raises(DataError, match="e.csv has no rows below its header"):
        read(str(tmp_path / "e.csv"), OPTIONS, 0)
    (tmp_path / "m.csv").write_text("domain,series,x\na,1,2,3\na,1,2,3\n")
    with pytest.raises(DataError, match="m.csv has rows of more cells"):
        read(str(tmp_path / "m.csv"), OPTIONS, 0)
    (tmp_path / "b.csv").write_bytes(b"domain,series,x\n\xff\xfe,1,2\n")
    (tmp_path / "z.csv").write_bytes(b"")
    for name in ("b.csv", "z.csv"):
        with pytest.raises(DataError, match=f"{name} cannot be read as a table"):
            read(str(tmp_path / name), OPTIONS, 0)


def test_series_that_are_all_too_short_say_so(tmp_path):
    path = write(tmp_path, frame())
    with pytest.raises(
        DataError, match=r"holds no window \(4 series of d.csv are shorter than a window of 5 steps\); --window"
    ):
        read(path, DataOptions(window=5), 0)
