"""Every file format gives the same windows; unsafe and damaged files are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from pt_core.errors import DataError
from pt_timeseries.data.generate import ACTIVITIES, sensor_data, subject
from pt_timeseries.data.inputs import input_windows
from pt_timeseries.data.sources import read
from pt_timeseries.options import DataOptions

OPTIONS = DataOptions(window=8, stride=8)


def windows(count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2, 8)).astype(np.float32)


def test_long_recordings_of_an_archive_are_cut(tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(30, 2)
    y = np.repeat([0, 1, 1], 10)
    np.savez(tmp_path / "d.npz", x=x, y=y, seq_ptr=[0, 20, 30], seq_subject=[7, 8], classes=["lo", "hi"])
    found = read(str(tmp_path / "d.npz"), DataOptions(window=8, stride=6), 0)
    assert found.names == ["7", "8"]
    assert found.classes == ("lo", "hi")
    first = found.items[0]
    assert first.values.shape == (3, 2, 8)
    assert list(first.labels) == ["lo", "lo", "hi"]  # steps 6-13 are 4 lo and 4 hi
    assert first.groups == ["0"] * 3
    assert first.values[1, 0].tolist() == x[6:14, 0].tolist()


def test_ready_windows_with_scale_and_numbered_classes(tmp_path):
    x = (100 * windows()[:, 0]).astype(np.int16)
    np.savez(tmp_path / "d.npz", x=x, y=[0, 1, 0, 1], load_hp=[0, 0, 3, 3], scale=np.float32(0.01), classes=["p", "q"])
    found = read(str(tmp_path / "d.npz"), OPTIONS, 0)
    assert found.names == ["0", "3"]
    np.testing.assert_allclose(found.items[1].values[:, 0], x[2:] * np.float32(0.01))
    assert list(found.items[0].labels) == ["p", "q"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_long_tables(tmp_path, kind):
    values = windows()
    rows = [
        {"user": "ab"[w // 2], "id": w, "t": t, "acc": values[w, 0, t], "gyr": values[w, 1, t], "label": "xy"[w % 2]}
        for w in range(4)
        for t in range(8)
    ]
    frame = pd.DataFrame(rows).sample(frac=1, random_state=0)
    path = tmp_path / f"d.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    found = read(str(path), OPTIONS, 0)
    assert found.names == ["a", "b"]
    by_group = {g: v for d in found.items for g, v in zip(d.groups, d.values, strict=True)}
    for w in range(4):
        np.testing.assert_allclose(by_group[str(w)], values[w], rtol=1e-6)
    assert sorted(found.items[0].labels) == ["x", "y"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "user"}, "no domain column .*--domain-column"),
        ({"drop": "id"}, "no series column"),
        ({"text": "acc"}, r"column 'acc' is not numeric \(text\).*--drop-columns acc"),
        ({"empty": "user"}, r"d.csv, line 4: domain \(column 'user'\) is empty"),
        ({"nan": "acc"}, "domain 'a' of d.csv, series '0', has 1 missing values .*step 2, channel 0.*--missing"),
        ({"keep": ["user", "id", "t", "label"]}, "no column left for channels"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, change, message):
    frame = pd.DataFrame({"user": "a", "id": 0, "t": range(8), "acc": 1.0, "label": "x"})
    if "drop" in change:
        frame = frame.drop(columns=change["drop"])
    if "text" in change:
        frame[change["text"]] = "high"
    if "empty" in change:
        frame.loc[2, change["empty"]] = None
    if "nan" in change:
        frame.loc[2, change["nan"]] = np.nan
    frame = frame[change.get("keep", list(frame.columns))]
    frame.to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "d.csv"), OPTIONS, 0)


def adatime(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, (samples, labels) in files.items():
        torch.save({"samples": torch.as_tensor(samples), "labels": torch.as_tensor(labels)}, folder / f"{name}.pt")
    return str(folder)


def test_adatime_files(tmp_path):
    path = adatime(
        tmp_path / "har",
        train_3=(windows(), [0, 1, 2, 0]),
        test_3=(windows(2, 1), [1, 2]),
        train_10=(windows(), [0] * 4),
    )
    found = read(path, OPTIONS, 0)
    assert found.names == ["3", "10"]
    assert list(found.items[0].parts) == ["train"] * 4 + ["test"] * 2
    assert found.classes == ("0", "1", "2")
    turned = adatime(tmp_path / "t", train_1=(windows().transpose(0, 2, 1), [0, 1, 0, 1]))
    other = read(turned, DataOptions(channels=2), 0)
    np.testing.assert_allclose(other.items[0].values, windows())
    assert "transposed" in other.notes[0]


def test_pickled_code_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "d").mkdir()
    torch.save({"samples": Bomb(), "labels": torch.zeros(1)}, tmp_path / "d" / "train_1.pt")
    with pytest.raises(DataError, match="more than tensors and is not loaded"):
        read(str(tmp_path / "d"), OPTIONS, 0)
    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], dtype=object), y=[0])
    with pytest.raises(DataError, match="pickled objects"):
        read(str(tmp_path / "bomb.npz"), OPTIONS, 0)
    assert not (tmp_path / "ran").exists()


def test_ts_files(tmp_path):
    pytest.importorskip("aeon")
    for name, seed in (("left_TRAIN", 0), ("left_TEST", 1), ("right", 2)):
        lines = ["@problemName made", "@timeStamps false", "@missing false", "@univariate false", "@dimensions 2"]
        lines += ["@equalLength true", "@seriesLength 8", "@classLabel true x y", "@data"]
        for number, window in enumerate(windows(4, seed)):
            lines.append(":".join([",".join(map(str, channel)) for channel in window] + ["xy"[number % 2]]))
        (tmp_path / f"{name}.ts").write_text("\n".join(lines))
    found = read(str(tmp_path), OPTIONS, 0)
    assert found.names == ["left", "right"]
    left = found.items[0]
    np.testing.assert_allclose(
        left.values, np.concatenate([windows(4, 1), windows(4, 0)]), rtol=1e-5
    )  # TEST sorts first
    assert list(left.parts) == ["test"] * 4 + ["train"] * 4
    assert found.classes == ("x", "y")
    (tmp_path / "bad.ts").write_text("nonsense")
    with pytest.raises(DataError, match="bad.ts cannot be read"):
        read(str(tmp_path / "bad.ts"), OPTIONS, 0)


def test_a_folder_of_archives_puts_the_file_before_the_domain(tmp_path):
    for name in ("phone", "watch"):
        np.savez(tmp_path / f"{name}.npz", x=windows(), y=list("xyxy"), subject=[1, 1, 2, 2])
    assert read(str(tmp_path), OPTIONS, 0).names == ["phone:1", "phone:2", "watch:1", "watch:2"]
    (tmp_path / "notes.csv").write_text("name,age\nx,3\n")
    with pytest.raises(DataError, match="notes.csv .*--skip-files"):
        read(str(tmp_path), OPTIONS, 0)
    assert "notes.csv is left out" in " ".join(read(str(tmp_path), DataOptions(window=8, skip_files=True), 0).notes)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": [1]}, "no array 'x'; it has: z"),
        ({"x": np.array(["a"])}, "holds <U1 of shape .*, not numbers"),
        ({"x": windows(), "y": [0, 1]}, "'x' has 4 entries and the labels 2"),
        ({"x": windows(), "y": [0, 9, 0, 0], "classes": ["a"]}, "labels run from 0 to 9"),
        ({"x": windows(), "y": [0] * 4, "domain": [1, 2]}, "array 'domain' has shape"),
        ({"x": windows()[:, 0].T, "y": [0] * 8, "seq_ptr": [0, 50], "seq_subject": [1]}, "seq_ptr must rise"),
    ],
)
def test_archives_that_cannot_be_read(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "d.npz"), OPTIONS, 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.npz", "does not exist"),
        ("builtin:moton", "did you mean 'motion'"),
        ("a.md", "no known format"),
        ("", "no .npz"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, spec, message):
    (tmp_path / "a.md").write_text("x")
    where = spec if spec.startswith("builtin") else str(tmp_path / spec)
    with pytest.raises(DataError, match=message):
        read(where, OPTIONS, 0)
    (tmp_path / "torn.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="cannot be read as a NumPy archive"):
        read(str(tmp_path / "torn.npz"), OPTIONS, 0)


# ---- generated data, inputs ------------------------------------------------------------------------------------------------


def test_generated_subjects_are_functions_of_their_name():
    first, again = (sensor_data(["s1", "s2"], per_class=2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.items[1].values, again.items[1].values)
    assert first.items[0].values.shape == (2 * len(ACTIVITIES), 6, 128)
    assert subject("s1", 0.0).tempo == subject("s2", 0.0).tempo == 1.0
    assert torch.equal(subject("s1", 0.0).turn, torch.eye(6))
    twin = sensor_data(["s3", "t"], per_class=200, bodies={"t": "s3"}, seed=1)
    other = sensor_data(["s3", "t"], per_class=200, seed=1)
    gap = lambda found: np.abs(found.items[0].values.mean((0, 2)) - found.items[1].values.mean((0, 2))).max()  # noqa: E731
    assert gap(twin) < 0.1 < gap(other)


def test_inputs_are_files_and_arrays(tmp_path):
    np.savez(tmp_path / "d.npz", x=windows(), domain=[1, 1, 2, 2])
    found = input_windows([str(tmp_path / "d.npz"), windows()[0], torch.tensor(windows(2))], 8)
    assert len(found) == 7
    assert found.labels is None
    assert found.ids[0].endswith("d.npz:1/0")
    assert found.ids[-1] == "window/2"
    for bad, message in ((np.zeros(3), "expected numbers"), ("nowhere.npz", "does not exist")):
        with pytest.raises(DataError, match=message):
            input_windows([bad], 8)
    with pytest.raises(DataError, match="no input"):
        input_windows([], 8)
