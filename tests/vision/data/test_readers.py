"""Folders, tables, arrays, hub data sets and the built-in digits give parts with stable ids, classes and groups."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pt_core.data import Dataset
from pt_core.errors import DataError, MissingExtra, UserError
from pt_core.run.data.audit import audit
from pt_core.run.data.sampling import hold_out
from pt_vision.data.load import load_images, sort_names
from pt_vision.data.names import problem
from pt_vision.options import DataOptions

from tests.vision.pictures import encoded, make_folder, picture

PREPROCESSING = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}


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


def test_an_undivided_folder_is_one_training_part(tmp_path: Path) -> None:
    data = load_images(str(make_folder(tmp_path / "d", {".": {"b": 2, "a": 1}})))
    assert list(data) == ["train"]
    assert list(data["train"].ids) == ["a/0.png", "b/0.png", "b/1.png"]
    assert data["train"].notes == ()


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {".": {"train": 2, "plane": 2, "test": 2}})
    assert load_images(str(root))["train"].classes == ["plane", "test", "train"]


def test_whole_number_classes_are_in_numeric_order(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {".": {"10": 1, "9": 1, "1": 1}})
    assert load_images(str(root))["train"].classes == ["1", "9", "10"]
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
    assert data["train"].notes == (f"2 of 12 images of {divided} cannot be read and are left out",)


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


def test_names_are_judged_without_reading(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("no table")
    (tmp_path / "empty").mkdir()
    for spec in (
        "builtin:digits",
        "builtin:streets_small",
        "hub:any/name",
        f"{tmp_path}/table.csv",
        f"{tmp_path}/empty",
    ):
        assert problem(spec) is None, spec
    (tmp_path / "notes.txt").write_text("x")
    for spec in ("builtin:digit", "nowhere", str(tmp_path / "notes.txt")):
        with pytest.raises(UserError) as caught:
            load_images(spec)
        assert problem(spec) == str(caught.value)
    with pytest.raises(UserError, match="no built-in data 'streets'"):  # images with masks
        load_images("builtin:streets")


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
    data = load_images(str(tmp_path / "t.parquet"))
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
    with pytest.raises(DataError, match=r"1 images of the train part of .* have no 'patient'"):
        load_images(write(frame), DataOptions(group_column="patient"))


def test_labels_with_gaps_elsewhere_stay_whole_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": [encoded(i) for i in range(4)], "label": [3.0, 10.0, 3.0, 10.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load_images(str(tmp_path / "t.parquet"))["train"].classes == ["3", "10"]


def test_a_group_column_gives_groups_that_splits_keep_together(csv: Path) -> None:
    data = load_images(str(csv), DataOptions(group_column="patient"))
    assert data["val"].groups == ["p2"] * 3
    table().drop(columns="split").to_csv(csv.with_name("undivided.csv"), index=False)
    whole = load_images(str(csv.with_name("undivided.csv")), DataOptions(group_column="patient"))["train"]
    kept, held = hold_out(whole, 0.25, 0)
    assert not set(kept.groups) & set(held.groups)
    assert sorted([*kept.groups, *held.groups]) == sorted(table()["patient"])


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
    np.savez(tmp_path / "u.npz", x=grey, y=np.array(["b", "a", "b", "b"]))
    assert load_images(str(tmp_path / "u.npz"))["train"].labels == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "has x_train but no y_train; it has x_train, x_test"),
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
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
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
    single = load_images(str(saved / "single"))
    assert {role: list(part.ids) for role, part in single.items()} == {"train": [f"train/{i}" for i in range(4)]}


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
    with pytest.raises(DataError, match=r"column 'fine' of .* holds no images"):
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
    assert list(load_images("builtin:digits")["test"].ids) == list(data["test"].ids)
    assert data["test"].ids[:3] == ["digit-21", "digit-24", "digit-28"]
    assert audit(data).duplicates == {}
    with pytest.raises(UserError, match=r"no built-in data 'digit' \(did you mean 'digits'\?\)"):
        load_images("builtin:digit")
