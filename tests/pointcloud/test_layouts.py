"""Published data sets in the layouts they are published in, with their official divisions; each test writes one, small."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from pt_core.errors import DataError
from pt_pointcloud.data.load import load_clouds
from pt_pointcloud.options import DataOptions
from pt_pointcloud.tasks.parts import PartSegmentation

RNG = np.random.default_rng(0)


def points(count: int = 32) -> np.ndarray:
    return RNG.normal(size=(count, 3)).astype(np.float32)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# ---- ModelNet40, normals, as text files --------------------------------------------------------------------------------------------


def modelnet(root: Path) -> dict[str, np.ndarray]:
    """modelnet40_normal_resampled: CLASS/CLASS_0001.txt with x,y,z,nx,ny,nz, and lists of names; a class name has an underscore."""
    clouds = {}
    lists = {"modelnet40_train": [], "modelnet40_test": [], "modelnet10_train": [], "modelnet10_test": []}
    for label in ("airplane", "bathtub", "night_stand"):
        for number in range(1, 6):
            name = f"{label}_{number:04d}"
            table = np.concatenate([points(), points()], 1)
            (root / label).mkdir(parents=True, exist_ok=True)
            np.savetxt(root / label / f"{name}.txt", table, delimiter=",", fmt="%.6f")
            clouds[f"{label}/{name}.txt"] = np.round(table[:, :3].astype(np.float64), 6).astype(np.float32)
            role = "train" if number not in (2, 5) else "test"
            lists[f"modelnet40_{role}"].append(name)
            if label != "airplane":
                lists[f"modelnet10_{role}"].append(name)
    for name, entries in lists.items():
        write(root / f"{name}.txt", "\n".join(entries) + "\n")
    write(root / "modelnet40_shape_names.txt", "airplane\nbathtub\nnight_stand\n")
    write(root / "modelnet10_shape_names.txt", "bathtub\nnight_stand\n")
    write(root / "filelist.txt", "\n".join(clouds) + "\n")
    return clouds


def test_modelnet40_normal_resampled(tmp_path):
    clouds = modelnet(tmp_path / "modelnet40_normal_resampled")
    data = load_clouds(str(tmp_path / "modelnet40_normal_resampled"))
    assert {role: len(part) for role, part in data.items()} == {"train": 9, "test": 6}
    assert list(data["train"].classes) == ["airplane", "bathtub", "night_stand"]
    for role, numbers in (("train", (1, 3, 4)), ("test", (2, 5))):
        assert [name.rsplit("_", 1)[1] for name in data[role].ids] == [f"{n:04d}.txt" for n in numbers] * 3
        for name, cloud, label in zip(data[role].ids, data[role].clouds, data[role].labels, strict=True):
            assert np.array_equal(cloud, clouds[name])
            assert name.startswith(data[role].classes[label])
    (note,) = data["train"].notes
    assert note == "divided as its lists modelnet40_train.txt and test.txt say (others: --variant modelnet10)"


def test_modelnet10_is_a_division_of_the_same_folder(tmp_path):
    modelnet(tmp_path / "m")
    data = load_clouds(str(tmp_path / "m"), DataOptions(variant="modelnet10"))
    assert {role: len(part) for role, part in data.items()} == {"train": 6, "test": 4}
    assert list(data["train"].classes) == ["bathtub", "night_stand"]
    assert "5 files are in no list" in data["train"].notes[0]
    with pytest.raises(DataError, match=r"no lists 'modelnet20'.*it has modelnet10, modelnet40 \(--variant\)"):
        load_clouds(str(tmp_path / "m"), DataOptions(variant="modelnet20"))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("modelnet40_train", "bathtub_0099\n", "1 entries of the train list have no file, such as 'bathtub_0099'"),
        ("modelnet40_train", "bathtub_0002\n", "'bathtub/bathtub_0002.txt' is in the train and the test list"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, name, more, message):
    modelnet(tmp_path / "m")
    path = tmp_path / "m" / f"{name}.txt"
    path.write_text(path.read_text() + more)
    with pytest.raises(DataError, match=message):
        load_clouds(str(tmp_path / "m"))


def test_lists_may_hold_paths_and_classes(tmp_path):
    for place in ("a/0", "a/1", "b/0", "b/1"):
        (tmp_path / "d" / place).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "d" / f"{place}.npy", points())
    write(tmp_path / "d" / "train.txt", "a/0.npy 0\nb/1 1\n")
    write(tmp_path / "d" / "test.txt", "a/1\nb/0.npy\n")
    data = load_clouds(str(tmp_path / "d"))
    assert {role: list(part.ids) for role, part in data.items()} == {
        "train": ["a/0.npy", "b/1.npy"],
        "test": ["a/1.npy", "b/0.npy"],
    }


# ---- arrays in numbered .h5 files ---------------------------------------------------------------------------------------------------


def h5(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")


def test_modelnet40_ply_hdf5(tmp_path):
    """`ply_data_train0.h5` ... with labels (sample, 1) of shape_names.txt, face ids and normals; lists name foreign folders."""
    root, kept = tmp_path / "modelnet40_ply_hdf5_2048", {}
    for role, count in (("train", 11), ("test", 2)):
        for number in range(count):
            values = {
                "data": np.stack([points() for _ in range(2)]),
                "label": np.array([[number % 2], [2 if role == "train" else 0]], dtype=np.uint8),
                "normal": np.stack([points() for _ in range(2)]),
                "faceId": RNG.integers(0, 900, (2, 32)).astype(np.int32),
            }
            h5(root / f"ply_data_{role}{number}.h5", **values)
            write(root / f"ply_data_{role}_{number}_id2file.json", "[]")
            kept[role, number] = values
        names = "".join(f"data/modelnet40_ply_hdf5_2048/ply_data_{role}{n}.h5\n" for n in range(count))
        write(root / f"{role}_files.txt", names)
    write(root / "shape_names.txt", "cup\nlamp\nsofa\nnever\n")
    data = load_clouds(str(root))
    assert {role: len(part) for role, part in data.items()} == {"train": 22, "test": 4}
    assert list(data["train"].classes) == ["cup", "lamp", "sofa"]
    assert data["train"].labels == [n for number in range(11) for n in (number % 2, 2)]
    assert data["train"].ids[-1] == "ply_data_train10/1"  # in the order of numbers, not of names
    assert np.array_equal(data["train"].clouds[20], kept["train", 10]["data"][0])
    assert data["train"].parts is None
    assert np.array_equal(data["test"].clouds[3], kept["test", 1]["data"][1])
    (root / "ply_data_test1.h5").unlink()
    with pytest.raises(DataError, match=r"lacks ply_data_test1\.h5, which test_files\.txt names"):
        load_clouds(str(root))


def test_shapenetpart_hdf5_data(tmp_path):
    """Categories in all_object_categories.txt, part numbers over all categories in `pid`, three roles."""
    root, categories = tmp_path / "hdf5_data", {"Airplane": "02691156", "Bag": "02773838"}
    write(root / "all_object_categories.txt", "".join(f"{name}\t{number}\n" for name, number in categories.items()))
    pairs = [["02691156", 0], ["02691156", 1], ["02773838", 0], ["02773838", 1]]
    write(root / "overallid_to_catid_partid.json", json.dumps(pairs))
    parts = {}
    for role, count in (("train", 2), ("val", 1), ("test", 1)):
        for number in range(count):
            label = np.array([[0], [1]], dtype=np.uint8)
            pid = np.stack([np.arange(32) % 2, 2 + np.arange(32) % 2]).astype(np.uint8)
            h5(root / f"ply_data_{role}{number}.h5", data=np.stack([points(), points()]), label=label, pid=pid)
            parts[role] = pid
        write(root / f"{role}_hdf5_file_list.txt", "".join(f"ply_data_{role}{n}.h5\n" for n in range(count)))
    data = load_clouds(str(root))
    assert {role: len(part) for role, part in data.items()} == {"train": 4, "val": 2, "test": 2}
    train = data["train"]
    assert list(train.classes) == ["Airplane", "Bag"]
    assert list(train.part_names) == ["Airplane/0", "Airplane/1", "Bag/0", "Bag/1"]
    assert np.array_equal(np.stack(train.parts), np.concatenate([parts["train"]] * 2))
    task = PartSegmentation.from_data(train)
    assert task.parts_of == {"Airplane": [0, 1], "Bag": [2, 3]}
    task.check_dataset(data["test"], "test")


# ---- ScanObjectNN ----------------------------------------------------------------------------------------------------------------------


def scans(root: Path) -> dict[tuple[str, str], np.ndarray]:
    kept = {}
    for folder, suffixes in (("main_split", ("", "_augmentedrot_scale75")), ("main_split_nobg", ("",))):
        for suffix in suffixes:
            for role, count in (("training", 4), ("test", 2)):
                values = np.stack([points() for _ in range(count)])
                h5(
                    root / folder / f"{role}_objectdataset{suffix}.h5",
                    data=values,
                    label=np.array([14, 0, 7, 0][:count], dtype=np.int32),
                    mask=RNG.integers(-1, 5, (count, 32)).astype(np.int32),
                )
                kept[f"{folder}{suffix}", role] = values
    return kept


@pytest.mark.parametrize(
    ("place", "variant", "key"),
    [
        ("main_split", "PB_T50_RS", "main_split_augmentedrot_scale75"),
        ("main_split", "OBJ_BG", "main_split"),
        ("main_split_nobg", None, "main_split_nobg"),
        ("", "OBJ_ONLY", "main_split_nobg"),
        ("", "PB_T50_RS", "main_split_augmentedrot_scale75"),
    ],
)
def test_scan_object_nn(tmp_path, place, variant, key):
    kept = scans(tmp_path / "h5_files")
    data = load_clouds(str(tmp_path / "h5_files" / place), DataOptions(variant=variant))
    assert {role: len(part) for role, part in data.items()} == {"train": 4, "test": 2}
    assert list(data["train"].classes) == ["bag", "door", "toilet"]
    assert data["train"].labels == [2, 0, 1, 0]
    assert np.array_equal(np.stack(data["train"].clouds), kept[key, "training"])
    assert np.array_equal(np.stack(data["test"].clouds), kept[key, "test"])
    assert data["train"].parts is None
    assert "divided as published" in data["train"].notes[0]


def test_a_variant_of_scan_object_nn_has_to_be_chosen(tmp_path):
    scans(tmp_path)
    with pytest.raises(DataError, match="holds 2 variants; choose one with --variant: OBJ_BG, PB_T50_RS"):
        load_clouds(str(tmp_path / "main_split"))
    with pytest.raises(DataError, match=r"no variant 'PB_T50' \(did you mean 'PB_T50_RS'\?\)"):
        load_clouds(str(tmp_path / "main_split"), DataOptions(variant="PB_T50"))
    (tmp_path / "main_split_nobg" / "test_objectdataset.h5").unlink()
    with pytest.raises(DataError, match="needs a training_ and a test_ file"):
        load_clouds(str(tmp_path / "main_split_nobg"))


# ---- ShapeNetPart, one file per shape ------------------------------------------------------------------------------------------------

SHAPES = {"Airplane": ("02691156", (0, 4)), "Earphone": ("03261776", (16, 19)), "Cap": ("02954340", (6, 8))}


def shapenet(root: Path, old: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`old`: points/*.pts with parts from 1 up in points_label/*.seg; else one table with parts over all categories, as floats."""
    kept, lists = {}, {"train": [], "val": [], "test": []}
    write(root / "synsetoffset2category.txt", "".join(f"{name}\t{number}\n" for name, (number, _) in SHAPES.items()))
    for number, (first, last) in SHAPES.values():
        for n, role in enumerate(("train", "train", "val", "test")):
            shape = f"{number[-2:]}{n}f" + "0" * 29
            count = 30 + n  # shapes have different numbers of points
            cloud, parts = points(count), first + np.arange(count) % (last - first)
            if old:
                (root / number / "points").mkdir(parents=True, exist_ok=True)
                (root / number / "points_label").mkdir(parents=True, exist_ok=True)
                np.savetxt(root / number / "points" / f"{shape}.pts", cloud, fmt="%.5f")
                np.savetxt(root / number / "points_label" / f"{shape}.seg", parts - first + 1, fmt="%d")
            else:
                (root / number).mkdir(parents=True, exist_ok=True)
                np.savetxt(
                    root / number / f"{shape}.txt",
                    np.concatenate([cloud, points(count), parts[:, None]], 1),
                    fmt="%.6f",
                )
            kept[f"{number}/{shape}"] = cloud, parts - first
            lists[role].append(f"shape_data/{number}/{shape}")
    for role, entries in lists.items():
        write(root / "train_test_split" / f"shuffled_{role}_file_list.json", json.dumps(entries[::-1]))
    return kept


@pytest.mark.parametrize("old", [False, True])
def test_shapenetpart_folder(tmp_path, old):
    kept = shapenet(tmp_path / "shapenet", old)
    data = load_clouds(str(tmp_path / "shapenet"))
    assert {role: len(part) for role, part in data.items()} == {"train": 6, "val": 3, "test": 3}
    for role, part in data.items():
        assert list(part.classes) == ["Airplane", "Earphone", "Cap"]
        for row, name in enumerate(part.ids):
            cloud, parts = kept[name]
            assert np.abs(part.clouds[row] - cloud).max() < 1e-4
            category = part.classes[part.labels[row]]
            assert [part.part_names[p] for p in part.parts[row]] == [f"{category}/{p}" for p in parts]
            assert (role == "val") is (name.split("/")[1][2] == "2")
    task = PartSegmentation.from_data(data["train"])
    assert {name: len(own) for name, own in task.parts_of.items()} == {"Airplane": 4, "Earphone": 3, "Cap": 2}
    if not old:
        assert task.parts_of["Earphone"] == [16, 17, 18]
    for role in ("val", "test"):
        task.check_dataset(data[role], role)


def test_broken_shapenetpart_folders_are_refused(tmp_path):
    shapenet(tmp_path, False)
    place = tmp_path / "train_test_split" / "shuffled_val_file_list.json"
    place.write_text(json.dumps(["shape_data/09999999/x"]))
    with pytest.raises(DataError, match=r"category 09999999, which synsetoffset2category\.txt does not name"):
        load_clouds(str(tmp_path))
    place.write_text(json.dumps(["shape_data/02691156/nowhere"]))
    with pytest.raises(DataError, match="cloud '02691156/nowhere' does not exist"):
        load_clouds(str(tmp_path))
    place.write_text("{}")
    with pytest.raises(DataError, match="must be a list of shape_data/NUMBER/SHAPE"):
        load_clouds(str(tmp_path))
    place.unlink()
    with pytest.raises(DataError, match=r"shuffled_val_file_list\.json is no readable list"):
        load_clouds(str(tmp_path))
