"""Clouds in: every kind of file and folder, labels, parts, views, episodes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from pt_core.errors import ConfigError, DataError, UserError
from pt_core.run.declare.options import build_all
from pt_pointcloud.data.files import read_cloud
from pt_pointcloud.data.inputs import input_clouds
from pt_pointcloud.data.load import load_clouds
from pt_pointcloud.data.normalise import check_cloud, normalise
from pt_pointcloud.methods.idpt import IDPT
from pt_pointcloud.methods.idpt_seg import IDPTSeg
from pt_pointcloud.ops import furthest_point_sample
from pt_pointcloud.options import DataOptions, PredictOptions

from tests.pointcloud.common import LABELS, bound, clouds, seeded_make, tiny

RNG = np.random.default_rng(0)
SIZES = tiny().preprocessing


def points(n: int = 60) -> np.ndarray:
    return RNG.normal(size=(n, 3)).astype(np.float32)


def folder(root: Path, layout: dict[str, int], suffix: str = ".npy") -> Path:
    for place, count in layout.items():
        (root / place).mkdir(parents=True)
        for n in range(count):
            path, cloud = root / place / f"{n}{suffix}", points()
            if suffix == ".npy":
                np.save(path, cloud)
            elif suffix == ".npz":
                np.savez(path, points=cloud)
            elif suffix in (".txt", ".xyz"):
                np.savetxt(
                    path,
                    np.concatenate([cloud, np.arange(60)[:, None] % 2], 1),
                    delimiter="," if suffix == ".txt" else " ",
                )
            else:
                trimesh.creation.box(extents=(1, 2, 3)).export(path)
    return root


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".txt", ".xyz", ".off", ".obj", ".ply", ".stl"])
def test_folders_of_every_kind_of_file(tmp_path, suffix):
    data = load_clouds(str(folder(tmp_path / "d", {"a": 2, "b": 3}, suffix)))
    assert {role: len(part) for role, part in data.items()} == {"train": 5}
    train = data["train"]
    assert (train.classes, train.labels) == (["a", "b"], [0, 0, 1, 1, 1])
    assert train.ids[0] == f"a/0{suffix}"
    assert all(cloud.dtype == np.float32 and cloud.shape[1] == 3 for cloud in train.clouds)


@pytest.mark.parametrize(
    "layout",
    [{"train/a": 2, "train/b": 2, "test/a": 1, "valid/b": 1}, {"a/train": 2, "b/train": 2, "a/test": 1, "b/val": 1}],
)
def test_divided_folders(tmp_path, layout):
    data = load_clouds(str(folder(tmp_path / "d", layout)))
    assert {role: len(part) for role, part in data.items()} == {"train": 4, "test": 1, "val": 1}
    assert data["test"].labels == [0]
    assert data["val"].labels == [1]


def test_meshes_are_sampled_by_area_with_a_recorded_seed(tmp_path):
    path = tmp_path / "box.off"
    trimesh.creation.box(extents=(1, 1, 4)).export(path)
    first, again = read_cloud(path, 4000, 0)[0], read_cloud(path, 4000, 0)[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, read_cloud(path, 4000, 1)[0])
    ends = (np.abs(first[:, 2]) > 2 - 1e-4).mean()
    assert ends == pytest.approx(2 / 18, abs=0.02)  # two of 18 units of area


def test_a_ply_without_faces_is_a_cloud(tmp_path):
    path = tmp_path / "c.ply"
    trimesh.PointCloud(points(40)).export(path)
    assert read_cloud(path, 4000, 0)[0].shape == (40, 3)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_arrays_with_classes_and_parts(tmp_path, suffix):
    arrays = {
        "points": np.stack([points() for _ in range(4)]),
        "y": np.array([0, 2, 2, 0]),
        "parts": RNG.integers(0, 3, (4, 60)),
    }
    path = tmp_path / f"train{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays, classes=np.array(["cup", "never", "pot"]))
    else:
        import h5py

        with h5py.File(path, "w") as file:
            for name, value in {
                "data": arrays["points"],
                "label": arrays["y"][:, None],
                "pid": arrays["parts"],
            }.items():
                file[name] = value
            file["classes"] = np.array([b"cup", b"never", b"pot"])
    for spec in (path, tmp_path):
        train = load_clouds(str(spec))["train"]
        assert (list(train.classes), train.labels) == (["cup", "pot"], [0, 1, 1, 0])
        assert np.array_equal(train.parts[1], arrays["parts"][1])
        assert np.array_equal(train.clouds[2], arrays["points"][2])


def test_a_table_of_paths(tmp_path):
    folder(tmp_path / "files", {"x": 3})
    (tmp_path / "t.csv").write_text(
        "path,kind,split\nfiles/x/0.npy,a,train\nfiles/x/1.npy,b,train\nfiles/x/2.npy,a,test\n"
    )
    data = load_clouds(str(tmp_path / "t.csv"), DataOptions(label_column="kind"))
    assert {role: part.labels for role, part in data.items()} == {"train": [0, 1], "test": [0]}


def test_parts_in_a_column_of_text_files(tmp_path):
    data = load_clouds(str(folder(tmp_path / "d", {"a": 1, "b": 1}, ".txt")), DataOptions(part_column="-1"))
    assert data["train"].parts[0].tolist() == [n % 2 for n in range(60)]


def test_built_in_shapes_are_the_same_everywhere():
    first, again = load_clouds("builtin:shapes"), load_clouds("builtin:shapes")
    assert {role: len(part) for role, part in first.items()} == {"train": 360, "val": 120, "test": 240}
    assert first["train"].identity() == again["train"].identity()
    assert len(first["train"].classes) == 12
    digests = [digest for part in first.values() for digest in part.digests()]
    assert len(set(digests)) == 720
    for part in first.values():
        for label, own in zip(part.labels, part.parts, strict=True):
            names = {part.part_names[p].partition("/")[0] for p in set(own.tolist())}
            assert names == {part.classes[label]}


# ---- normalisation ------------------------------------------------------------------------------------------------------------------


def test_normalisation_rules():
    cloud = points() * 5 + 7
    unit = normalise(cloud, "unit_sphere")
    assert np.abs(unit.mean(0)).max() < 1e-6
    assert np.linalg.norm(unit, axis=1).max() == pytest.approx(1, abs=1e-6)
    assert normalise(cloud, "as_stored") is cloud
    assert np.array_equal(normalise(np.ones((3, 3), dtype=np.float32), "unit_sphere"), np.zeros((3, 3)))


def test_clouds_near_the_origin_warn():
    data = clouds(3, 0)
    data.clouds[1] *= 0.001
    with pytest.warns(UserWarning, match="cloud-0-1 lie within 0.0316 of the origin"):
        data.bind({**SIZES, "normalise": "as_stored"})


# ---- views ----------------------------------------------------------------------------------------------------------------------------


def test_evaluation_takes_the_first_points_of_furthest_point_sampling():
    data = clouds(2, 0, points=90).bind(SIZES)
    cloud = torch.from_numpy(normalise(data.clouds[0], "unit_sphere"))[None]
    want = cloud[0, furthest_point_sample(cloud, 48)[0].long()]
    sample = data.sample(0, epoch=None, seed=0)
    assert torch.equal(sample["points"], want)
    assert sample["centres"].tolist() == list(range(8))  # the prefix property
    assert sample["neighbours"].shape == (8, 6)
    assert data.sample(0, epoch=3, seed=1)["points"] is not None
    assert torch.equal(data.sample(0, epoch=3, seed=1)["points"], want)


def test_patch_indices_of_evaluation_are_computed_once(monkeypatch):
    from pt_pointcloud.data import dataset as module

    data, calls = bound(3, 0), []
    compute = module.group_indices
    monkeypatch.setattr(module, "group_indices", lambda *a: calls.append(1) or compute(*a))
    for _ in range(3):
        for row in range(3):
            data.sample(row, epoch=None, seed=0)
    assert len(calls) == 3


@pytest.mark.parametrize("augment", ["resample", "rotate", "scale_translate"])
def test_training_views_are_a_function_of_seed_epoch_and_sample(augment):
    data = clouds(2, 0, points=90).bind(SIZES, augment=augment)
    assert data.augmented
    one = data.sample(0, epoch=1, seed=5)["points"]
    assert torch.equal(one, data.sample(0, epoch=1, seed=5)["points"])
    others = [data.sample(0, epoch=2, seed=5), data.sample(0, epoch=1, seed=6), data.sample(1, epoch=1, seed=5)]
    assert all(not torch.equal(one, other["points"]) for other in others)
    still = data.sample(0, epoch=None, seed=5)["points"]
    assert torch.equal(still, clouds(2, 0, points=90).bind(SIZES).sample(0, epoch=None, seed=0)["points"])
    pool = data.ordered(0)[0]
    assert len(pool) == 57  # ceil(48 * 1200 / 1024)
    if augment == "resample":
        assert all(any(torch.equal(p, q) for q in pool) for p in one)
    if augment == "rotate":
        torch.testing.assert_close(
            one[:, 1].sort().values.max(), torch.stack([p[1] for p in pool if p[1] in one[:, 1]]).max()
        )


def test_votes_are_random_views_with_the_mean_of_their_logits():
    data = clouds(4, 0, points=90).bind(SIZES, votes=3)
    batch = data.collate([0, 1], [data.sample(row, epoch=None, seed=0) for row in (0, 1)])
    assert batch.inputs["points"].shape == (2, 3, 48, 3)
    method = seeded_make(IDPT, neighbours=5).eval()
    have = method.predict_step(batch, None)["logits"]
    each = [method.backbone(batch.inputs["points"][:, vote], weights=method.own) for vote in range(3)]
    assert len(each) == 3
    from pt_core import Batch

    views = [
        method(Batch({"points": batch.inputs["points"][:, vote]}, None, batch.index, batch.ids)) for vote in range(3)
    ]
    torch.testing.assert_close(have, torch.stack(views).mean(0))


def test_identity_follows_content_and_view():
    base = bound(3, 0)
    same = [bound(3, 0)]
    other = [
        bound(3, 1),
        bound(3, 0, corrupt=("noise",)),
        bound(3, 0, augment="rotate"),
        clouds(3, 0).bind({**SIZES, "points": 40}),
    ]
    assert {data.identity() for data in same} == {base.identity()}
    assert len({data.identity() for data in [base, *other]}) == 5


def test_parts_follow_their_points():
    data = clouds(3, 0, points=90).bind(
        SIZES, parts=True, corrupt=("missing", "rotation"), severity=0.3, augment="resample"
    )
    clean = clouds(3, 0, points=90).bind(SIZES, parts=True)
    for epoch in (None, 1):
        sample = clean.sample(0, epoch=epoch, seed=0)
        rows = [
            int(np.abs(normalise(clean.clouds[0], "unit_sphere") - p.numpy()).sum(1).argmin()) for p in sample["points"]
        ]
        assert torch.equal(sample["parts"], torch.from_numpy(clean.parts[0][rows]))
    assert data.sample(0, epoch=1, seed=0)["parts"].shape == (48,)
    with pytest.raises(DataError, match="adds points that belong to no part"):
        clouds(3, 0).bind(SIZES, parts=True, corrupt=("background",)).sample(0, epoch=None, seed=0)


# ---- episodes -------------------------------------------------------------------------------------------------------------------------


def test_episodes_draw_classes_and_clouds_anew():
    options = DataOptions(ways=5, queries=20)
    first = load_clouds("builtin:shapes", options, seed=0)
    assert {role: len(part) for role, part in first.items()} == {"train": 5 * 40, "test": 100}
    assert len(first["train"].classes) == 5
    assert not set(first["train"].ids) & set(first["test"].ids)
    again = load_clouds("builtin:shapes", options, seed=0)
    assert first["test"].ids == again["test"].ids
    other = load_clouds("builtin:shapes", DataOptions(ways=5, queries=20, episode=1), seed=0)
    assert first["test"].ids != other["test"].ids


# ---- inputs of predict ------------------------------------------------------------------------------------------------------------------


def test_inputs_are_files_folders_patterns_and_arrays(tmp_path):
    folder(tmp_path / "d", {"ball": 2, "rod": 1})
    method = seeded_make(IDPT, neighbours=5)
    for items, count in [
        ([str(tmp_path / "d")], 3),
        ([str(tmp_path / "d" / "*" / "0.npy")], 2),
        ([points(), torch.from_numpy(points())], 2),
        ([np.stack([points()] * 4)], 4),
    ]:
        assert len(input_clouds(items, method, PredictOptions())) == count
    seg = seeded_make(IDPTSeg)
    assert input_clouds([str(tmp_path / "d")], seg, PredictOptions()).labels == [LABELS.index("ball")] * 2 + [
        LABELS.index("rod")
    ]
    assert input_clouds([points()], seg, PredictOptions(category="sheet")).labels == [2]
    with pytest.raises(DataError, match="category 'rods' \\(did you mean 'rod'\\?\\) is unknown"):
        input_clouds([points()], seg, PredictOptions(category="rods"))


# ---- bad input --------------------------------------------------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def bad_arrays(root: Path, **changes) -> str:
    arrays = {"points": np.stack([points()] * 2), "y": np.array([0, 1]), **changes}
    np.savez(root / "train.npz", **{k: v for k, v in arrays.items() if v is not None})
    return str(root / "train.npz")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: str(root / "nowhere"), "do not exist"),
        (lambda root: "builtin:shape", "did you mean 'shapes'"),
        (lambda root: str(write(root / "a.zip", "")), "of no known kind"),
        (lambda root: str(write(root / "a.off", "")), "a single cloud; give a folder"),
        (lambda root: str(write(root / "d" / "a" / "notes.md", "").parents[1]), "holds no cloud or mesh"),
        (lambda root: str(write(root / "d" / "x.off", "").parent), "has no class folders"),
        (
            lambda root: str(write(root / "d" / "a" / "x.off", "OFF\n3 1").parents[1]),
            "1 files .* cannot be used: cloud 'a/x.off'",
        ),
        (
            lambda root: str(write(root / "d" / "a" / "x.txt", "1 2 nan\n").parents[1]),
            "NaN or infinite coordinates in 1 of 1 points",
        ),
        (lambda root: str(write(root / "d" / "a" / "x.txt", "1 2\n3 4\n").parents[1]), r"shape \(2, 2\)"),
        (lambda root: bad_arrays(root, points=None), "has no points: none of the arrays points"),
        (lambda root: bad_arrays(root, y=None), "has no labels"),
        (lambda root: bad_arrays(root, points=np.zeros((2, 5))), r"expected \(sample, point, 3\)"),
        (lambda root: bad_arrays(root, y=np.zeros(3)), "3 labels for 2 clouds"),
        (lambda root: bad_arrays(root, y=np.array([0, 7]), classes=np.array(["a", "b"])), r"label 7 is outside 0\.\.1"),
        (lambda root: bad_arrays(root, y=np.array([0, -1])), "label -1 is outside"),
        (lambda root: bad_arrays(root, parts=np.zeros((2, 3), dtype=int)), r"of shape \(2, 60\)"),
        (lambda root: str(write(root / "train.npz", b"PK nonsense")), "cannot be read"),
        (lambda root: str(write(root / "t.csv", "file,kind\na.off,x\n")), "has none of the columns label"),
        (
            lambda root: str(write(root / "t.csv", "path,label,split\na.off,x,later\n")),
            "'later'; expected train, val or test",
        ),
    ],
)
def test_bad_data_are_refused(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        load_clouds(make(tmp_path))


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: check_cloud(np.zeros((4, 2)), "x"), DataError, r"'x' has shape \(4, 2\)"),
        (lambda: check_cloud(np.full((4, 3), 1e300), "x"), DataError, "beyond float32"),
        (lambda: check_cloud(np.zeros((0, 3)), "x"), DataError, "has no points"),
        (
            lambda: clouds(1, 0, points=40).bind(SIZES).sample(0, epoch=None, seed=0),
            DataError,
            "has 40 points; the backbone reads N=48",
        ),
        (lambda: bound(1, 0, corrupt=("missing",)).sample(0, epoch=None, seed=0), DataError, "after corruption"),
        (lambda: clouds(1, 0).sample(0, epoch=None, seed=0), DataError, "call dataset.bind"),
        (lambda: clouds(3, 0).relabel(["ball", "rod"]), DataError, "'sheet'"),
        (
            lambda: load_clouds("builtin:shapes", DataOptions(ways=13)),
            DataError,
            "--ways 13 is more than the 12 classes",
        ),
        (lambda: load_clouds("builtin:shapes", DataOptions(ways=3, queries=60)), DataError, "--queries 60 leaves none"),
        (lambda: build_all({"d": DataOptions}, {"corrupt": "rust"}), ConfigError, "corrupt"),
        (lambda: build_all({"d": DataOptions}, {"severity": 1.5}), ConfigError, "severity=1.5"),
        (lambda: build_all({"d": DataOptions}, {"normalise": "unit"}), ConfigError, "normalise='unit'"),
    ],
)
def test_bad_input_is_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_cloud(tmp_path / "x.npy", 10, 0)
