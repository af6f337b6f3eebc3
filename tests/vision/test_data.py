"""Labelled images from every supported place become data sets with stable ids, classes and views."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pt_core.data import Dataset
from pt_core.errors import ConfigError, DataError, MissingExtra, UserError
from pt_core.method import Stream
from pt_core.run.audit import audit
from pt_core.run.options import build_all, field_docs
from pt_core.run.sampling import SubsetDataset
from pt_core.run.streams import Shard, StreamReader
from pt_vision.data import DataOptions, ImageDataset, load_images, sort_names
from pt_vision.inputs import input_images

PREPROCESSING = {
    "input_size": (3, 16, 16),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.5, 0.25, 0.2),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}


def picture(number: int, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    """(row, column, 3) uint8, smooth enough to survive JPEG, different for every number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3)).astype(np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BILINEAR))


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(root: Path, parts: dict[str, dict[str, int]]) -> Path:
    """parts: sub-path -> class -> number of images."""
    number = 0
    for part, classes in parts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(number)).save(root / part / name / f"{i}.png")
                number += 1
    return root


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    return make_folder(
        tmp_path / "d", {"train": {"dog": 4, "cat": 3}, "valid": {"cat": 2}, "test": {"dog": 1, "cat": 1}}
    )


WHOLE = DataOptions(test_fraction=0)


# Folders


def test_a_divided_folder_gives_its_parts_and_sorted_classes(divided: Path) -> None:
    data = load_images(str(divided))
    assert {role: len(part) for role, part in data.items()} == {"train": 7, "val": 2, "test": 2}
    assert data["train"].classes == data["val"].classes == ["cat", "dog"]
    assert list(data["train"].ids) == [f"train/cat/{i}.png" for i in range(3)] + [
        f"train/dog/{i}.png" for i in range(4)
    ]
    assert data["train"].labels == [0, 0, 0, 1, 1, 1, 1]
    assert data["val"].labels == [0, 0]
    assert isinstance(data["train"], Dataset)
    assert np.array_equal(data["train"].picture(3), picture(0))


def test_an_undivided_folder_holds_out_a_stratified_test_part(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {".": {"a": 10, "b": 20}})
    data = load_images(str(root), seed=3)
    assert {role: len(part) for role, part in data.items()} == {"train": 24, "test": 6}
    assert (data["test"].labels or []).count(0) == 2
    assert not set(data["train"].ids) & set(data["test"].ids)
    assert data["train"].notes == (f"{root} is undivided: 6 of 30 images split off as test part (stratified, seed 3)",)
    assert list(load_images(str(root), seed=3)["test"].ids) == list(data["test"].ids)
    assert list(load_images(str(root), seed=4)["test"].ids) != list(data["test"].ids)
    assert list(load_images(str(root), WHOLE)) == ["train"]


def test_too_few_images_to_split_name_the_option(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {".": {"a": 10, "rare": 1}})
    with pytest.raises(DataError, match=r"rare has 1.*--test-fraction 0"):
        load_images(str(root))


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {".": {"train": 2, "plane": 2, "test": 2}})
    assert load_images(str(root), WHOLE)["train"].classes == ["plane", "test", "train"]


def test_whole_number_classes_are_in_numeric_order(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {".": {"10": 1, "9": 1, "1": 1}})
    assert load_images(str(root), WHOLE)["train"].classes == ["1", "9", "10"]
    assert sort_names(["b", "10", "9"]) == ["10", "9", "b"]


def test_hidden_and_system_files_are_ignored_with_a_count(divided: Path) -> None:
    before = load_images(str(divided))["train"].identity()
    (divided / "train/cat/.DS_Store").write_bytes(b"\0")
    (divided / "train/dog/Thumbs.db").write_bytes(b"\0")
    (divided / "train/.ipynb_checkpoints").mkdir()
    data = load_images(str(divided))
    assert len(data["train"]) == 7
    assert data["train"].identity() == before
    assert data["train"].notes == (f"2 hidden or system files in {divided} are ignored",)


def test_all_bad_files_of_all_parts_are_in_one_error(divided: Path) -> None:
    whole = (divided / "train/cat/0.png").read_bytes()
    (divided / "train/cat/0.png").write_bytes(whole[:-40])
    (divided / "train/dog/notes.txt").write_text("not a picture")
    (divided / "valid/cat/fake.jpg").write_text("text called jpg")
    (divided / "test/dog/0.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load_images(str(divided))
    text = str(caught.value)
    assert text.startswith("4 of 13 images cannot be read: train/cat/0.png (")
    for piece in ("train/dog/notes.txt (not an image)", "valid/cat/fake.jpg (not an image)", "test/dog/0.png (empty)"):
        assert piece in text
    assert "--skip-bad" in text
    assert "\n" not in text


def test_skip_bad_leaves_them_out_and_counts_them(divided: Path) -> None:
    (divided / "train/dog/notes.txt").write_text("not a picture")
    (divided / "valid/cat/0.png").write_bytes(b"")
    data = load_images(str(divided), DataOptions(skip_bad=True))
    assert {role: part.skipped for role, part in data.items()} == {
        "train": ("train/dog/notes.txt",),
        "val": ("valid/cat/0.png",),
        "test": (),
    }
    assert (len(data["train"]), len(data["val"])) == (7, 1)
    assert np.array_equal(data["val"].picture(0), picture(8))
    assert data["train"].notes == (f"2 of 13 images of {divided} cannot be read and are left out",)


def test_a_long_list_of_bad_files_is_cut(tmp_path: Path) -> None:
    folder = tmp_path / "d/cat"
    folder.mkdir(parents=True)
    for i in range(25):
        (folder / f"{i:02d}.jpg").write_text("no")
    for options in (DataOptions(), DataOptions(skip_bad=True)):
        with pytest.raises(DataError, match=r"25 of 25 .*cat/09.jpg \(not an image\) and 15 more"):
            load_images(str(tmp_path / "d"), options)


def test_classes_that_training_lacks_are_named(divided: Path) -> None:
    (divided / "test/cats").mkdir()
    Image.fromarray(picture(0)).save(divided / "test/cats/0.png")
    with pytest.raises(
        DataError, match=r"the test part .* that the training part lacks: 'cats' \(did you mean 'cat'\?\)"
    ):
        load_images(str(divided))


def test_a_folder_with_a_test_part_only_can_be_evaluated_on(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"test": {"dog": 2}})
    data = load_images(str(root))
    assert list(data) == ["test"]
    named = data["test"].relabel(["cat", "dog"])
    assert (named.labels, named.classes) == ([1, 1], ["cat", "dog"])
    assert data["test"].labels == [0, 0]
    with pytest.raises(DataError, match="not among the known ones: 'dog'"):
        data["test"].relabel(["cat", "bird"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "has no class folders"),
        (lambda p: (p / "train/cat").mkdir(parents=True), "class folder .*cat holds no image"),
        (
            lambda p: make_folder(p, {"val": {"a": 1}, "valid": {"a": 1}, "train": {"a": 1}}),
            "val and valid for the val part",
        ),
        (lambda p: p.write_text("x"), "neither a folder nor a file of a known kind"),
    ],
)
def test_unusable_paths(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "data"
    make(path)
    with pytest.raises(UserError, match=message):
        load_images(str(path))


def test_a_folder_has_no_columns(divided: Path) -> None:
    with pytest.raises(DataError, match="is a folder and has no columns"):
        load_images(str(divided), DataOptions(group_column="patient"))


# Tables


def table(size: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": [f"images/{i}.png" for i in range(size)],
            "label": ["cat" if i % 2 else "NA" for i in range(size)],
            "split": ["train"] * 6 + ["val"] * 3 + ["Test"] * (size - 9),
            "domain": ["photo", "photo", "sketch"] * (size // 3),
            "patient": [f"p{i // 3}" for i in range(size)],
            "fold": list(range(size)),
        }
    )


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(12):
        (tmp_path / f"images/{i}.png").write_bytes(encoded(i))
    table().to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def test_a_csv_reads_paths_beside_it_and_keeps_words_like_na(csv: Path) -> None:
    data = load_images(str(csv))
    assert {role: len(part) for role, part in data.items()} == {"train": 6, "val": 3, "test": 3}
    assert data["train"].classes == ["NA", "cat"]
    assert list(data["val"].ids) == ["images/6.png", "images/7.png", "images/8.png"]
    assert np.array_equal(data["test"].picture(1), picture(10))


def test_parquet_of_bytes_of_structs_and_of_paths_agree_with_the_csv(csv: Path) -> None:
    frame = table()
    frame.to_parquet(csv.with_name("paths.parquet"))
    frame = frame.drop(columns="path")
    frame["jpeg"] = [encoded(i) for i in range(12)]
    frame.to_parquet(csv.with_name("bytes.parquet"))
    frame["image"] = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(12)]
    frame.drop(columns="jpeg").to_parquet(csv.with_name("structs.parquet"))
    expected = load_images(str(csv))
    for name in ("paths", "bytes", "structs"):
        data = load_images(str(csv.with_name(f"{name}.parquet")))
        assert {role: part.identity() for role, part in data.items()} == {
            role: part.identity() for role, part in expected.items()
        }
        assert len(set(data["train"].ids)) == 6


def test_hub_metadata_in_parquet_names_the_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])})
    rows = {"image": [{"bytes": encoded(i), "path": None} for i in range(4)], "label": [0, 1, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "t.parquet"))
    data = load_images(str(tmp_path / "t.parquet"), WHOLE)
    assert data["train"].classes == ["zebra", "ant"]
    assert data["train"].labels == [0, 1, 1, 0]


def test_where_keeps_rows_and_combines(csv: Path) -> None:
    data = load_images(str(csv), DataOptions(where=("domain=photo", "fold!=0|1")))
    assert list(data["train"].ids) == ["images/3.png", "images/4.png"]
    assert data["train"].identity() != load_images(str(csv))["train"].identity()


def test_where_that_empties_a_part_says_so(csv: Path) -> None:
    data = load_images(str(csv), DataOptions(where=("split=train",)))
    assert list(data) == ["train"]
    assert len(data["train"].notes) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"where": ("domain=foto",)},
            r"column 'domain' of .* never is 'foto' \(did you mean 'photo'\?\); it holds photo, sketch",
        ),
        ({"where": ("domian=photo",)}, r"no column 'domian' \(did you mean 'domain'\?\); it has path, label, split"),
        ({"where": ("domain",)}, r"--where 'domain' is not of the form"),
        ({"where": ("domain=photo", "fold=2")}, "passes all --where"),
        ({"image_column": "pth"}, r"no column 'pth' \(did you mean 'path'\?\).*--image-column"),
        ({"label_column": "clas"}, r"no column 'clas'.*--label-column"),
        ({"split_column": "part"}, r"no column 'part'.*--split-column"),
        ({"split_column": "domain"}, r"column 'domain' of .* holds 'photo', 'sketch'; use train, val and test"),
        ({"group_column": "patients"}, r"no column 'patients' \(did you mean 'patient'\?\)"),
        ({"background": "whit"}, "is not a colour"),
    ],
)
def test_wrong_table_options_name_the_value_and_what_there_is(csv: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(str(csv), DataOptions(**options))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_without_label_or_image_are_listed(csv: Path, suffix: str) -> None:
    def write(frame: pd.DataFrame) -> str:
        path = csv.with_name(f"gaps.{suffix}")
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
        return str(path)

    frame = table()
    frame.loc[[2, 7], "label"] = None
    with pytest.raises(DataError, match="rows without a 'label': 2, 7"):
        load_images(write(frame))
    frame = table()
    frame.loc[3, "path"] = None
    frame.loc[4, "path"] = "images/gone.png"
    with pytest.raises(DataError, match=r"2 of 12 .* \(empty\), images/gone.png \(does not exist\)"):
        load_images(write(frame))
    frame = table()
    frame.loc[5, "patient"] = None
    with pytest.raises(DataError, match="1 images of the train part of .* have no 'patient'"):
        load_images(write(frame), DataOptions(group_column="patient"))


def test_labels_with_gaps_elsewhere_stay_whole_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": [encoded(i) for i in range(4)], "label": [3.0, 10.0, 3.0, 10.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load_images(str(tmp_path / "t.parquet"), WHOLE)["train"].classes == ["3", "10"]


def test_group_column_gives_groups_and_splits_by_them(csv: Path) -> None:
    options = DataOptions(group_column="patient", test_fraction=0.25)
    frame = table().drop(columns="split")
    frame.to_csv(csv.with_name("undivided.csv"), index=False)
    data = load_images(str(csv.with_name("undivided.csv")), options)
    assert not set(data["train"].groups or []) & set(data["test"].groups or [])
    assert sorted([*(data["train"].groups or []), *(data["test"].groups or [])]) == sorted(frame["patient"])
    assert "by group" in data["train"].notes[0]
    given = load_images(str(csv), DataOptions(group_column="patient"))
    assert given["val"].groups == ["p2"] * 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"path,label\na.png,x,y,z\n"),
        ("t.csv", b""),
        ("t.csv", b"\xff\xfe\x00\x01,"),
        ("t.parquet", b"PAR1 no"),
    ],
)
def test_damaged_tables_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load_images(str(tmp_path / name))


# Arrays


def arrays(**changes: Any) -> dict[str, Any]:
    images = np.stack([picture(i) for i in range(6)])
    content = {
        "x_train": images[:4],
        "y_train": np.array([0, 1, 1, 0], np.int8),
        "x_test": images[4:],
        "y_test": np.array([1, 0], np.int8),
        "classes": np.array(["RBC", "Platelets"]),
        "slide_train": np.array(["s0", "s0", "s1", "s1"]),
        "slide_test": np.array(["s2", "s2"]),
    }
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


def test_npz_keeps_the_class_order_that_it_gives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    data = load_images(str(tmp_path / "a.npz"), DataOptions(group_column="slide"))
    assert data["test"].classes == ["RBC", "Platelets"]
    assert (list(data["test"].ids), data["test"].labels) == (["test/0", "test/1"], [1, 0])
    assert (data["train"].groups, data["test"].groups) == (["s0", "s0", "s1", "s1"], ["s2", "s2"])
    assert np.array_equal(data["train"].picture(2), picture(2))
    chosen = load_images(str(tmp_path / "a.npz"), DataOptions(where=("slide=s1|s2",)))
    assert list(chosen["train"].ids) == ["train/2", "train/3"]


def test_npz_of_grey_16_bit_medmnist_names_and_undivided(tmp_path: Path) -> None:
    grey = (np.arange(8 * 9, dtype=np.uint16).reshape(1, 8, 9) * 257).repeat(4, 0)
    np.savez(tmp_path / "m.npz", train_images=grey, train_labels=np.array([[0], [1], [10], [9]]))
    data = load_images(str(tmp_path / "m.npz"))
    assert data["train"].classes == ["0", "1", "9", "10"]
    assert np.array_equal(np.asarray(data["train"].picture(0))[..., 1], np.arange(72).reshape(8, 9))
    np.savez(tmp_path / "u.npz", x=grey, y=np.array(["a", "b", "a", "b"]))
    assert {r: len(p) for r, p in load_images(str(tmp_path / "u.npz"), DataOptions(test_fraction=0.5)).items()} == {
        "train": 2,
        "test": 2,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, r"has x_train but no y_train \(did you mean 'y_test'\?\)"),
        ({"y_train": np.array([0, 1])}, "y_train has shape \\(2,\\) for the 4 images"),
        ({"y_test": np.array([1, 5])}, "y_test holds 5, outside the 2 classes"),
        ({"x_train": np.zeros(4, np.uint8)}, "x_train has shape \\(4,\\)"),
        ({"x_train": np.zeros((4, 5, 5), np.int64)}, "4 of 6 .*train/0 \\(pixels of type int64"),
        ({"x_train": None, "x_test": None}, "has no arrays x_train and y_train; it has y_train"),
        ({"x_train": np.array([None] * 4, dtype=object)}, "cannot be read as .npz"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(DataError, match=message):
        load_images(str(tmp_path / "a.npz"))


def test_npz_names_missing_group_arrays_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays())
    with pytest.raises(DataError, match=r"no array 'slides_train' .*did you mean 'slide'.*columns: slide"):
        load_images(str(path), DataOptions(group_column="slides"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read as .npz"):
        load_images(str(path))


def test_a_pickle_called_npz_is_never_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        load_images(str(tmp_path / "a.npz"))
    assert not (tmp_path / "executed").exists()


# Hub data sets


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["wolf", "ant"]), "site": datasets.Value("string")}
    )

    def part(start: int, labels: list[int]) -> Any:
        images = [{"bytes": encoded(start + i), "path": None} for i in range(len(labels))]
        return datasets.Dataset.from_dict(
            {"img": images, "fine": labels, "site": ["x", "y"] * (len(labels) // 2)}, features
        )

    parts = {"train": part(0, [0, 1, 1, 0]), "validation": part(4, [1, 0]), "extra": part(6, [1, 0])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "dict"))
    parts["train"].save_to_disk(str(tmp_path / "single"))
    return tmp_path


def test_saved_hub_data_give_parts_classes_and_columns(saved: Path) -> None:
    data = load_images(str(saved / "dict"), DataOptions(group_column="site"))
    assert {role: len(part) for role, part in data.items()} == {"train": 4, "val": 2}
    assert data["val"].classes == ["wolf", "ant"]
    assert (data["val"].labels, list(data["val"].ids)) == ([1, 0], ["validation/0", "validation/1"])
    assert data["train"].groups == ["x", "y", "x", "y"]
    assert np.array_equal(data["val"].picture(1), picture(5))
    assert "extra" in data["train"].notes[0]
    only_y = load_images(str(saved / "dict"), DataOptions(where=("site=y",)))
    assert np.array_equal(only_y["train"].picture(1), picture(3))
    single = load_images(str(saved / "single"), DataOptions(test_fraction=0.5))
    assert {role: len(part) for role, part in single.items()} == {"train": 2, "test": 2}


def test_saved_hub_data_survive_pickling_for_workers(saved: Path) -> None:
    part = pickle.loads(pickle.dumps(load_images(str(saved / "dict"))["train"].bind(PREPROCESSING)))
    assert part.sample(0, epoch=None, seed=0).shape == (3, 16, 16)


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), FileNotFoundError("x/y not on the hub"), RuntimeError("client")]
)
def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load_dataset(*given: Any, **options: Any) -> None:
        asked.append((given, options))
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        UserError, match=rf"'x/y:small' cannot be loaded \({type(error).__name__}: {error}\); without"
    ) as caught:
        load_images("hub:x/y:small")
    assert "\n" not in str(caught.value)
    assert asked == [(("x/y", "small"), {})]


def test_hub_data_without_the_extra_name_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'pt-vision\[hub\]'"):
        load_images("hub:x/y")


def test_wrong_hub_columns_are_named(saved: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'image'.*it has img, fine, site"):
        load_images(str(saved / "dict"), DataOptions(image_column="image"))
    with pytest.raises(DataError, match="column 'fine' of .* holds no images"):
        load_images(str(saved / "dict"), DataOptions(image_column="fine"))
    (saved / "single/state.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_images(str(saved / "single"))


# Built-in


def test_the_built_in_digits_are_fixed() -> None:
    data = load_images("builtin:digits")
    assert {role: len(part) for role, part in data.items()} == {"train": 1077, "val": 270, "test": 450}
    ids = [name for part in data.values() for name in part.ids]
    assert len(set(ids)) == 1797
    assert data["train"].picture(0).size == (32, 32)
    assert list(load_images("builtin:digits", seed=9)["test"].ids) == list(data["test"].ids)
    assert audit(data).duplicates == {}
    with pytest.raises(UserError, match=r"no built-in data 'digit' \(did you mean 'digits'\?\)"):
        load_images("builtin:digit")


# Samples


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_images("builtin:digits")["val"]


def test_an_unbound_data_set_says_what_to_do(digits: ImageDataset) -> None:
    with pytest.raises(DataError, match=r"call dataset\.bind"):
        digits.sample(0, epoch=None, seed=0)


def test_the_evaluation_view_is_resize_centre_crop_and_normalise() -> None:
    wide = ImageDataset([picture(1, (40, 80))], ["a"], [0], ["x"]).bind({**PREPROCESSING, "crop_pct": 0.8})
    image = Image.fromarray(picture(1, (40, 80))).resize((40, 20), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)[2:18, 12:28].astype(np.float32) / 255
    expected = (pixels - np.float32(PREPROCESSING["mean"])) / np.float32(PREPROCESSING["std"])
    sample = wide.sample(0, epoch=None, seed=0)
    assert sample.dtype == torch.float32
    assert torch.allclose(sample, torch.as_tensor(expected).permute(2, 0, 1), atol=1e-6)
    assert torch.equal(wide.sample(0, epoch=5, seed=1), sample)
    assert not wide.augmented


@pytest.mark.parametrize("augment", ["none", "flip", "standard", "medical"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_view_has_the_input_size(augment: Any, channels: int) -> None:
    data = ImageDataset([picture(1, (40, 80))], ["a"], [0], ["x"])
    data = data.bind({**PREPROCESSING, "input_size": (channels, 16, 24), "crop_pct": 0.9}, augment)
    for epoch in (None, 0):
        assert data.sample(0, epoch=epoch, seed=0).shape == (channels, 16, 24)


def test_one_channel_backbones_read_grey() -> None:
    data = ImageDataset([picture(1, (16, 16))], ["a"], [0], ["x"]).bind({**PREPROCESSING, "input_size": (1, 16, 16)})
    grey = np.asarray(Image.fromarray(picture(1, (16, 16))).convert("L")).astype(np.float32) / 255
    expected = (grey - 0.4) / np.mean([0.5, 0.25, 0.2])
    assert np.allclose(data.sample(0, epoch=None, seed=0).numpy()[0], expected, atol=1e-5)
    with pytest.raises(DataError, match="reads 4 channels"):
        data.bind({**PREPROCESSING, "input_size": (4, 16, 16)})


@pytest.mark.parametrize("augment", ["flip", "standard", "medical"])
def test_the_training_view_is_a_function_of_seed_epoch_and_index(digits: ImageDataset, augment: Any) -> None:
    data = digits.bind(PREPROCESSING, augment)
    assert data.augmented
    forwards = [data.sample(i, epoch=2, seed=1) for i in range(12)]
    torch.rand(5)
    backwards = [data.sample(i, epoch=2, seed=1) for i in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    for epoch, seed in ((3, 1), (2, 2)):
        assert any(not torch.equal(a, data.sample(i, epoch=epoch, seed=seed)) for i, a in enumerate(forwards))
    same = ImageDataset([digits.sources[0]] * 12, list("abcdefghijkl"), None).bind(PREPROCESSING, augment)
    assert len({same.sample(i, epoch=0, seed=0).numpy().tobytes() for i in range(12)}) > 1
    assert torch.equal(data.sample(0, epoch=None, seed=1), digits.bind(PREPROCESSING).sample(0, epoch=None, seed=0))


def test_the_callers_generators_are_left_alone(digits: ImageDataset) -> None:
    data = digits.bind(PREPROCESSING, "medical")
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    data.sample(0, epoch=0, seed=0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_flip_is_a_flip(digits: ImageDataset) -> None:
    plain, flipped = digits.bind(PREPROCESSING), digits.bind(PREPROCESSING, "flip")
    turned = 0
    for i in range(16):
        view, image = flipped.sample(i, epoch=0, seed=0), plain.sample(i, epoch=None, seed=0)
        mirrored = torch.allclose(view, image.flip(-1), atol=0.02)
        assert mirrored or torch.equal(view, image)
        turned += mirrored
    assert 0 < turned < 16


def test_the_number_of_workers_changes_nothing(divided: Path) -> None:
    data = load_images(str(divided))["train"].bind(PREPROCESSING, "standard")

    def draws(workers: int) -> list[Any]:
        reader = StreamReader("train", Stream("train"), data, 3, seed=5, shard=Shard(), workers=workers)
        reader.start(0)
        batches = [reader.next()[0] for _ in range(4)]
        reader.close()
        return batches

    for one, two in zip(draws(0), draws(2), strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.target, two.target)
        assert list(one.ids) == list(two.ids)


def test_collate_gives_inputs_targets_positions_and_names(divided: Path) -> None:
    data = load_images(str(divided))["train"].bind(PREPROCESSING)
    batch = data.collate([5, 0], [data.sample(i, epoch=None, seed=0) for i in (5, 0)])
    assert batch.inputs.shape == (2, 3, 16, 16)
    assert (batch.target.tolist(), batch.target.dtype) == ([1, 0], torch.int64)
    assert batch.index.tolist() == [5, 0]
    assert list(batch.ids) == ["train/dog/2.png", "train/cat/0.png"]


def test_identity_follows_content_and_labels_and_not_the_place(divided: Path, tmp_path: Path) -> None:
    original = load_images(str(divided))["train"]
    moved = load_images(str(divided.rename(tmp_path / "elsewhere")))["train"]
    assert original.identity() == moved.identity() == moved.bind(PREPROCESSING).identity()
    assert moved.subset([0, 1]).identity() != moved.subset([1, 0]).identity()
    assert moved.relabel(["dog", "cat"]).identity() != moved.identity()
    path = tmp_path / "elsewhere/train/cat/0.png"
    path.write_bytes(encoded(77))
    assert load_images(str(tmp_path / "elsewhere"))["train"].identity() != moved.identity()


def test_the_audit_finds_a_copy_in_another_format(divided: Path) -> None:
    Image.open(divided / "train/dog/1.png").save(divided / "test/dog/copy.bmp")
    found = audit(load_images(str(divided)))
    assert found.examples == {"train/test": [("train/dog/1.png", "test/dog/copy.bmp")]}


def test_a_subset_of_images_binds_and_shows_its_pictures(divided: Path) -> None:
    whole = load_images(str(divided))["train"]
    subset = SubsetDataset(whole, [4, 1])
    bound = subset.bind(PREPROCESSING, "flip")
    assert torch.equal(bound.sample(0, epoch=1, seed=2), whole.bind(PREPROCESSING, "flip").sample(4, epoch=1, seed=2))
    assert np.array_equal(subset.picture(1), whole.picture(1))
    assert bound.augmented
    assert subset.digests() == [whole.digests()[4], whole.digests()[1]]
    assert whole.subset([4, 1]).subset([1]).ids == [whole.ids[1]]


def test_a_file_that_vanishes_is_named(divided: Path) -> None:
    data = load_images(str(divided))["train"].bind(PREPROCESSING)
    (divided / "train/cat/1.png").unlink()
    with pytest.raises(DataError, match="image 'train/cat/1.png' cannot be read: does not exist"):
        data.sample(1, epoch=None, seed=0)


# Options


def test_options_are_documented_and_checked() -> None:
    assert set(field_docs(DataOptions)) == set(DataOptions.__dataclass_fields__)
    options = build_all({"data": DataOptions}, {"where": "domain=photo,fold=1", "augment": "flip"})["data"]
    assert options.where == ("domain=photo", "fold=1")
    for wrong in ({"val_fraction": 1.0}, {"test_fraction": -0.1}, {"augment": "flips"}, {"skip_bda": True}):
        with pytest.raises(ConfigError):
            build_all({"data": DataOptions}, wrong)


# Inputs for prediction


def test_inputs_from_files_folders_and_patterns(divided: Path) -> None:
    (divided / "train/cat/.hidden").write_bytes(b"")
    inputs = input_images([str(divided / "test"), divided / "train/cat/0.png", str(divided / "train/dog/[01].png")])
    assert [Path(name).relative_to(divided).as_posix() for name in inputs.ids] == [
        "test/cat/0.png",
        "test/dog/0.png",
        "train/cat/0.png",
        "train/dog/0.png",
        "train/dog/1.png",
    ]
    assert inputs.labels is None
    bound = inputs.bind(PREPROCESSING)
    batch = bound.collate([0], [bound.sample(0, epoch=None, seed=0)])
    assert batch.target is None


def test_inputs_from_memory_agree(divided: Path) -> None:
    pixels = picture(0)
    items = [Image.fromarray(pixels), pixels, torch.as_tensor(pixels.copy()).permute(2, 0, 1), encoded(0)]
    inputs = input_images(items).bind(PREPROCESSING)
    samples = [inputs.sample(i, epoch=None, seed=0) for i in range(4)]
    assert all(torch.equal(samples[0], other) for other in samples[1:])
    assert list(inputs.ids) == [f"image-{i}" for i in range(4)]
    assert len(input_images(np.stack([pixels] * 3))) == 3
    assert len(input_images(pixels)) == len(input_images(str(divided / "train/dog/0.png"))) == 1


def test_bad_inputs_are_listed_together(divided: Path) -> None:
    (divided / "notes.txt").write_text("no")
    with pytest.raises(DataError) as caught:
        input_images(
            [divided / "gone.png", divided / "notes.txt", np.zeros((2, 2), np.int64), divided / "test/cat/0.png"]
        )
    for piece in ("3 of 4", "gone.png (does not exist)", "notes.txt (not an image)", "image-2 (pixels of type int64"):
        assert piece in str(caught.value)


def test_skip_bad_inputs_are_left_out(divided: Path) -> None:
    path = divided / "test/cat/0.png"
    path.write_bytes(path.read_bytes()[:-60])
    inputs = input_images(divided / "test", skip_bad=True)
    assert [Path(name).name for name in inputs.skipped] == ["0.png"]
    assert len(inputs) == 1
    late = input_images(divided / "test").bind(PREPROCESSING)
    with pytest.raises(DataError, match=r"test/cat/0\.png' cannot be read"):
        late.sample(0, epoch=None, seed=0)


@pytest.mark.parametrize(("items", "message"), [([], "no input images"), (["*.nothing"], "no file matches")])
def test_nothing_given_is_said(items: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        input_images(items)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        input_images(tmp_path)
