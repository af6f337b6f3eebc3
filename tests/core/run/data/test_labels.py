"""Labels in other class names, and files that `predict` is given."""

from __future__ import annotations

import os

import pytest
from pt_core.errors import DataError, unless_known
from pt_core.run.data.inputs import input_files
from pt_core.run.data.labels import relabelled


def test_labels_index_the_other_list():
    assert relabelled([0, 2, 0], ["cat", "cow", "dog"], ["dog", "ape", "cat"]) == [2, 0, 2], "cow has no samples"
    assert relabelled([], ["cat"], ["dog"]) == []


def test_classes_that_are_missing_are_named_with_the_nearest():
    with pytest.raises(
        DataError,
        match=r"^the data have classes that are not among the known ones: 'dgo' \(did you mean 'dog'\?\), 'x'$",
    ):
        relabelled([1, 0], ["dgo", "x"], ["dog"])
    with pytest.raises(DataError, match="^no source has '1', '2', '3', '4', '5', '6', '7', '8' here$"):
        relabelled(range(10), [str(n + 1) for n in range(10)], [], "no source has {} here")


def test_input_files(tmp_path, monkeypatch):
    for name in ("a.png", "deep/b.png", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)

    def usable(path):
        return path.suffix == ".png"

    assert [os.fspath(path) for path in input_files(".", usable, "image")] == ["a.png", "deep/b.png"]
    assert [os.fspath(path) for path in input_files("deep/*", usable, "image")] == ["deep/b.png", "deep/c.txt"]
    assert [path.name for path in input_files("**/*.txt", usable, "image")] == ["c.txt"]
    assert [os.fspath(path) for path in input_files("nowhere.png", usable, "image")] == ["nowhere.png"], (
        "told when it is read"
    )
    with pytest.raises(DataError, match="folder empty holds no image"):
        input_files("empty", usable, "image")
    with pytest.raises(DataError, match=r"no file matches '\*.jpg'"):
        input_files("*.jpg", usable, "image")
    (tmp_path / "odd[1].png").touch()
    assert [path.name for path in input_files("odd[1].png", usable, "image")] == ["odd[1].png"], "a name, not a pattern"


def test_unknown_names_come_with_what_there_is():
    assert unless_known("built-in data", "shapes", ["shapes"]) is None
    assert unless_known("built-in data", "shape", ["shapes", "digits"]) == (
        "no built-in data 'shape' (did you mean 'shapes'?); known: shapes, digits"
    )
