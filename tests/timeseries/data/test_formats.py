"""Published layouts: UCR .tsv and .npz, UEA .arff, AdaTime's folders of NumPy arrays."""

from __future__ import annotations

import collections
import pickle
import zipfile
import zlib

import numpy as np
import pytest
import torch
from pt_core.errors import DataError
from pt_timeseries.data.inputs import input_windows
from pt_timeseries.data.sources import problem, read
from pt_timeseries.options import DataOptions
from scipy.io import arff

OPTIONS = DataOptions(window=8, stride=8)


def windows(count: int = 4, seed: int = 0, channels: int = 2, steps: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, channels, steps)).astype(np.float32)


# ---- UCR: .tsv -------------------------------------------------------------------------------------------------------------


def ucr(path, values, labels):
    lines = ([str(label), *(repr(float(x)) for x in row)] for row, label in zip(values, labels, strict=True))
    path.write_text("".join("\t".join(line).replace("nan", "NaN") + "\n" for line in lines))


def test_ucr_pairs_are_domains_with_their_parts(tmp_path):
    one, two = windows(3, channels=1)[:, 0], windows(2, 1, channels=1)[:, 0]
    ucr(tmp_path / "GunPoint_TRAIN.tsv", one, [1, 2, 1])
    ucr(tmp_path / "GunPoint_TEST.tsv", two, [2, -1])
    ucr(tmp_path / "Other_TRAIN.tsv", two, [1, 2])
    found = read(str(tmp_path), OPTIONS, 0)
    assert found.names == ["GunPoint", "Other"]
    first = found.items[0]
    assert list(first.parts) == ["test"] * 2 + ["train"] * 3  # TEST sorts first
    assert list(first.labels) == ["2", "-1", "1", "2", "1"]
    np.testing.assert_array_equal(first.values[:, 0], np.concatenate([two, one]))
    alone = read(str(tmp_path / "Other_TRAIN.tsv"), OPTIONS, 0)
    np.testing.assert_array_equal(alone.items[0].values[:, 0], two)
    assert problem(str(tmp_path / "Other_TRAIN.tsv")) is None


def test_a_ucr_series_ends_where_its_values_end(tmp_path):
    values = windows(3, channels=1)[:, 0]
    values[1, 5:] = np.nan
    ucr(tmp_path / "A_TRAIN.tsv", values, [1, 2, 1])
    with pytest.raises(DataError, match="domain 'A' of .* has series of 5 to 8 steps.*--unequal pad or crop"):
        read(str(tmp_path / "A_TRAIN.tsv"), OPTIONS, 0)
    cropped = read(str(tmp_path / "A_TRAIN.tsv"), DataOptions(unequal="crop"), 0)
    np.testing.assert_array_equal(cropped.items[0].values[:, 0], values[:, :5])
    padded = read(str(tmp_path / "A_TRAIN.tsv"), DataOptions(unequal="pad"), 0)
    np.testing.assert_array_equal(padded.items[0].values[:, 0], values)
    (tmp_path / "B_TRAIN.tsv").write_text("1\t2\t3\n1\tx\t3\n")
    with pytest.raises(DataError, match="B_TRAIN.tsv cannot be read as series"):
        read(str(tmp_path / "B_TRAIN.tsv"), OPTIONS, 0)
    (tmp_path / "C_TRAIN.tsv").write_text("1\t2\t3\n\t2\t3\n")
    with pytest.raises(DataError, match="C_TRAIN.tsv, line 2: the class is empty"):
        read(str(tmp_path / "C_TRAIN.tsv"), OPTIONS, 0)


@pytest.mark.parametrize("separator", ["  ", ",", ", ", "\t"])
def test_ucr_texts_of_every_edition(separator, tmp_path):
    """White space with one in front and classes as 1.0000000e+00 (2018), commas (2015); a description beside them is no data."""
    folder = tmp_path / "GunPoint"
    folder.mkdir()
    one, two = windows(3, channels=1)[:, 0], windows(2, 1, channels=1)[:, 0]
    two[1, 6:] = np.nan
    for part, values, labels in (("TRAIN", one, [1, 2, 1]), ("TEST", two, [2, -1])):
        lines = [
            separator.join([f"{y:.7e}", *(f"{x:.9e}" for x in row)]) for row, y in zip(values, labels, strict=True)
        ]
        lead = separator if separator == "  " else ""
        (folder / f"GunPoint_{part}.txt").write_text("".join(f"{lead}{line}\n" for line in lines).replace("nan", "NaN"))
    (folder / "GunPoint.txt").write_text("Two actors, a gun and a finger.\n")
    found = read(str(folder), DataOptions(window=8, stride=8, unequal="pad"), 0)
    (domain,) = found.items
    assert (domain.name, list(domain.parts)) == ("GunPoint", ["test"] * 2 + ["train"] * 3)
    assert list(domain.labels) == ["2", "-1", "1", "2", "1"]
    np.testing.assert_allclose(domain.values[:, 0], np.concatenate([two, one]), rtol=1e-7)
    alone = read(str(folder / "GunPoint_TRAIN.txt"), OPTIONS, 0)
    np.testing.assert_allclose(alone.items[0].values[:, 0], one, rtol=1e-7)
    with pytest.raises(DataError, match="GunPoint.txt is no text of the UCR archive: a line has a class"):
        read(str(folder / "GunPoint.txt"), OPTIONS, 0)
    for part in ("TRAIN", "TEST"):
        (folder / f"GunPoint_{part}.txt").unlink()
    assert "holds no .npz" in (problem(str(folder)) or "")


# ---- .arff -----------------------------------------------------------------------------------------------------------------


def univariate(path, values, labels):
    heads = ["% made here", "@relation made", *(f"@attribute att{n} numeric" for n in range(values.shape[1]))]
    rows = [",".join([*map(repr, map(float, row)), label]) for row, label in zip(values, labels, strict=True)]
    path.write_text("\n".join([*heads, "@attribute target {a,b}", "", "@data", *rows]) + "\n")


def multivariate(path, values, labels):
    steps = [f"\t@attribute t{n} numeric" for n in range(values.shape[2])]
    heads = ["@relation made", "@attribute bag relational", *steps, "@end bag", "@attribute class {a,b}", "@data"]
    rows = []
    for window, label in zip(values, labels, strict=True):
        channels = "\\n".join(",".join("?" if np.isnan(x) else repr(float(x)) for x in channel) for channel in window)
        rows.append(f"'{channels}',{label}")
    path.write_text("\n".join([*heads, *rows]) + "\n")


def test_arff_of_one_channel_is_what_scipy_reads(tmp_path):
    univariate(tmp_path / "Coffee_TRAIN.arff", windows(4, channels=1)[:, 0], "abba")
    found = read(str(tmp_path / "Coffee_TRAIN.arff"), OPTIONS, 0)
    rows, meta = arff.loadarff(tmp_path / "Coffee_TRAIN.arff")
    want = np.array([[row[name] for name in meta.names()[:-1]] for row in rows], np.float32)
    np.testing.assert_array_equal(found.items[0].values[:, 0], want)
    assert list(found.items[0].labels) == [row[-1].decode() for row in rows]


def test_arff_of_many_channels_is_what_aeon_reads(tmp_path):
    aeon = pytest.importorskip("aeon.datasets")
    for name in ("Basic_TRAIN", "BasicDimension1_TRAIN"):  # the archive's folders hold single channels too
        multivariate(tmp_path / f"{name}.arff", windows(4), "abab")
    multivariate(tmp_path / "Basic_TEST.arff", windows(2, 1), "bb")
    found = read(str(tmp_path), OPTIONS, 0)
    assert found.names == ["Basic"]
    for rows, name in ((slice(2, None), "TRAIN"), (slice(0, 2), "TEST")):
        values, labels = aeon.load_from_arff_file(str(tmp_path / f"Basic_{name}.arff"))
        np.testing.assert_allclose(found.items[0].values[rows], values, rtol=1e-6)
        assert list(found.items[0].labels[rows]) == labels.tolist()
        assert set(found.items[0].parts[rows]) == {name.lower()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",a\n", ",?\n", 1), "line 10: the class is empty"),
        (lambda text: text.replace("@data", "@dat"), "has no @attribute or no @data"),
        (lambda text: text.replace("{a,b}", "string"), "the last attribute names no classes"),
        (lambda text: text.replace("',a", ",x',a", 1), "line 10 is no series of numbers"),
        (lambda text: text[: text.index("'")], "holds no series"),
    ],
)
def test_arff_that_cannot_be_read(tmp_path, change, message):
    multivariate(tmp_path / "x.arff", windows(2, steps=4), "ab")
    (tmp_path / "x.arff").write_text(change((tmp_path / "x.arff").read_text()))
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "x.arff"), OPTIONS, 0)


# ---- .npz ------------------------------------------------------------------------------------------------------------------


def test_an_archive_of_train_and_test_is_a_domain(tmp_path):
    np.savez(
        tmp_path / "ECG.npz",
        x_train=windows(4)[:, 0],
        y_train=[0.0, 1, 0, 1],
        x_test=windows(2, 1)[:, 0],
        y_test=[[1], [0]],
    )
    np.savez(
        tmp_path / "Up.npz", X_train=windows(4), Y_train=[0, 1, 0, 1], X_test=windows(2, 1, steps=6), Y_test=[1, 0]
    )
    found = read(str(tmp_path / "ECG.npz"), OPTIONS, 0)
    assert found.names == ["ECG"]
    assert list(found.items[0].parts) == ["train"] * 4 + ["test"] * 2
    assert list(found.items[0].labels) == ["0", "1", "0", "1", "1", "0"]
    np.testing.assert_array_equal(found.items[0].values[:, 0], np.concatenate([windows(4)[:, 0], windows(2, 1)[:, 0]]))
    cropped = read(str(tmp_path / "Up.npz"), DataOptions(unequal="crop"), 0)
    np.testing.assert_array_equal(
        cropped.items[0].values, np.concatenate([windows(4)[..., :6], windows(2, 1, steps=6)])
    )


def test_an_archive_of_several_domains_and_of_channels_last(tmp_path):
    np.savez(tmp_path / "d.npz", x_train=windows(4).transpose(0, 2, 1), y_train=[0, 1, 0, 1], domain_train=list("aabb"),
             x_test=windows(2, 1).transpose(0, 2, 1), y_test=[1, 0], domain_test=list("ab"))  # fmt: skip
    found = read(str(tmp_path / "d.npz"), DataOptions(channels=2), 0)
    assert found.names == ["a", "b"]
    np.testing.assert_array_equal(found.items[0].values, np.concatenate([windows(4)[:2], windows(2, 1)[:1]]))
    assert list(found.items[0].parts) == ["train", "train", "test"]
    assert "transposed" in found.notes[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": [0, np.nan, 1, 0]}, "entry 1: label 'y' is empty"),
        ({"y": ["a", "", "b", "a"]}, "entry 1: label 'y' is empty"),
        ({"y": [0.0, 0.5, 1, 0]}, "entry 1: label 'y' is 0.5; classes are names or whole numbers"),
        ({"y": np.eye(4)}, r"labels 'y' have shape \(4, 4\)"),
        ({"y": 1}, r"labels 'y' have shape \(\)"),
        ({"y": [0, 1, 0, 1], "classes": "ab"}, "array 'classes' has shape"),
        ({"y": [0, 1, 0, 1], "classes": ["a", "a"]}, "names a class twice"),
        ({"y": [0, 1, 0, 1], "split": ["train", "tset", "train", "test"]}, "holds 'tset'; use train and test"),
        ({"y": [0, 1, 0, 1], "scale": "big"}, "'scale' is 'big', not a number"),
        ({"y": [0, 1, 0, 1], "domain": [["a"]] * 4}, "array 'domain' has shape"),
        ({"seq_ptr": [[0, 4]]}, "seq_ptr must rise"),
        ({"seq_ptr": [0.0, 4.0]}, "seq_ptr must rise"),
        ({"x": np.float32(1)}, r"of shape \(\), not numbers"),
    ],
)
def test_archives_with_arrays_of_another_shape(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **{"x": windows(), **arrays})
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "d.npz"), OPTIONS, 0)


def test_labels_of_an_archive_are_names(tmp_path):
    np.savez(
        tmp_path / "d.npz", x=windows(), y=np.array([b"up", b"down", b"up", b"up"]), domain=[b"01", b"01", b"1", b"1"]
    )
    found = read(str(tmp_path / "d.npz"), OPTIONS, 0)
    assert found.names == ["01", "1"]
    assert found.classes == ("down", "up")
    np.savez(tmp_path / "f.npz", x=windows(), y=[0.0, 1.0, 0.0, 1.0], classes=["lo", "hi"], domain=[0.5, 0.5, 1.0, 1.0])
    found = read(str(tmp_path / "f.npz"), OPTIONS, 0)
    assert list(found.items[0].labels) == ["lo", "hi"]
    assert found.names == ["0.5", "1.0"]


def test_damaged_archives(tmp_path):
    np.save(tmp_path / "one.npy", windows())
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    np.savez_compressed(tmp_path / "torn.npz", x=windows(400))
    content = bytearray((tmp_path / "torn.npz").read_bytes())
    content[2000:2200] = bytes(200)
    (tmp_path / "torn.npz").write_bytes(content)
    with pytest.raises((zlib.error, zipfile.BadZipFile)):
        np.load(tmp_path / "torn.npz")["x"]
    for name in ("one", "torn"):
        with pytest.raises(DataError, match=f"{name}.npz cannot be read as a NumPy archive"):
            read(str(tmp_path / f"{name}.npz"), OPTIONS, 0)


# ---- AdaTime ---------------------------------------------------------------------------------------------------------------


def adatime(folder, old=False, **files):
    folder.mkdir()
    for name, (samples, labels) in files.items():
        torch.save({"samples": samples, "labels": labels}, folder / f"{name}.pt")
        if old:  # as NumPy 1 wrote it
            content = (folder / f"{name}.pt").read_bytes()
            with zipfile.ZipFile(folder / f"{name}.pt") as archive:
                entries = {entry: archive.read(entry) for entry in archive.namelist()}
            assert any(b"numpy._core.multiarray" in entry for entry in entries.values()), content[:100]
            with zipfile.ZipFile(folder / f"{name}.pt", "w") as archive:
                for entry, data in entries.items():
                    archive.writestr(entry, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return str(folder)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_adatime_folders_of_numpy_arrays(tmp_path, kind, old):
    files = {
        "train_1": (windows().astype(kind), np.array([0, 1, 2, 0])),
        "test_1": (windows(2, 1).astype(kind), np.array([1.0, 2.0])),
        "train_02": (torch.from_numpy(windows(3, 2)), np.array([[0], [1], [2]])),
    }
    found = read(adatime(tmp_path / "har", old, **files), OPTIONS, 0)
    assert found.names == ["1", "02"]
    np.testing.assert_array_equal(found.items[0].values, np.concatenate([windows(), windows(2, 1)]))
    assert list(found.items[0].labels) == ["0", "1", "2", "0", "1", "2"]
    assert list(found.items[1].labels) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.5, 1, 2, 0]), "train_1.pt, window 0: the label is 0.5; classes are names or whole numbers"),
        (np.array([0, np.nan, 2, 0]), "window 1: the label is empty"),
        (np.array(["a", None, "b", "c"], dtype=object), "holds more than tensors and is not loaded"),
        ([[0], [1, 2], [0], [1]], "'labels' is a list of entries of different size"),
        (np.eye(4), "do not fit"),
    ],
)
def test_adatime_labels_are_classes(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        read(adatime(tmp_path / "d", train_1=(windows(), labels)), OPTIONS, 0)


def test_arrays_open_no_door_for_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for number, labels in enumerate((np.array([Bomb()] * 4, dtype=object), collections.Counter("ab"), pickle.Pickler)):
        path = adatime(tmp_path / f"d{number}", train_1=(windows(), labels))
        with pytest.raises(DataError, match="is not loaded|do not fit|window"):
            read(path, OPTIONS, 0)
    assert not (tmp_path / "ran").exists()


# ---- arrays in memory ------------------------------------------------------------------------------------------------------


def test_inputs_of_any_float_and_nothing_odd():
    tensor = torch.from_numpy(windows(2)).requires_grad_()
    np.testing.assert_array_equal(input_windows([tensor], 8).values.numpy(), windows(2))
    assert torch.equal(input_windows([tensor.bfloat16()], 8).values, tensor.detach().bfloat16().float())
    for bad, message in (
        ([[1.0, 2.0], [3.0]], "is no array"),
        (np.zeros((2, 0)), "an input is empty"),
        ({"x": 1}, "expected numbers"),
        (np.array([["a", "b"]]), "expected numbers"),
    ):
        with pytest.raises(DataError, match=message):
            input_windows([bad], 8)
