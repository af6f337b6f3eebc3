"""Files as others write them: text with headers, Leica's .pts, .pcd, .las; labels that are missing, amounts, tensors with gradients."""

from __future__ import annotations

import struct
from pathlib import Path

import laspy
import numpy as np
import pandas as pd
import pytest
import torch
from pt_core.errors import DataError, UserError
from pt_pointcloud.data.files import read_cloud
from pt_pointcloud.data.inputs import input_clouds
from pt_pointcloud.data.load import load_clouds
from pt_pointcloud.data.normalise import check_cloud, normalise
from pt_pointcloud.data.pcd import unpack_lzf
from pt_pointcloud.methods.idpt import IDPT
from pt_pointcloud.options import DataOptions, PredictOptions

from tests.pointcloud.common import seeded_make
from tests.pointcloud.test_cli import run

XYZ = np.array([[1.5, 2.25, -3.0], [0.0, 1.0, 2.0], [-4.5, 5.0, 6.125]])


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- text ----------------------------------------------------------------------------------------------------------------------------

PLAIN = "1.5 2.25 -3\n0 1 2\n-4.5 5 6.125\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.xyz", PLAIN),
        ("a.pts", PLAIN),
        ("a.pts", "3\n1.5 2.25 -3 -900 12 13 14\n0 1 2 -100 1 2 3\n-4.5 5 6.125 7 8 9 10\n"),
        ("a.txt", "x y z\n" + PLAIN),
        ("a.txt", "X,Y,Z\n1.5,2.25,-3\n0,1,2\n-4.5,5,6.125\n"),
        ("a.txt", "x;y;z\n1.5;2.25;-3\n0;1;2\n-4.5;5;6.125\n"),
        ("a.txt", "1,5;2,25;-3,0\n0;1;2\n-4,5;5;6,125\n"),
        ("a.txt", "1.5;2.25;-3;\n0;1;2;\n-4.5;5;6.125;\n"),
        ("a.txt", "1.5, 2.25, -3,\n0, 1, 2,\n-4.5, 5, 6.125,\n"),
        ("a.asc", "//X Y Z R G B\n1.5 2.25 -3 1 2 3\n0 1 2 1 2 3\n-4.5 5 6.125 1 2 3\n"),
        ("a.asc", "# made by a scanner\n\n" + PLAIN + "\n# end\n"),
        ("a.txt", "intensity\tx\ty\tz\n9\t1.5\t2.25\t-3\n9\t0\t1\t2\n9\t-4.5\t5\t6.125\n"),
        ("a.txt", '"z","y","x"\n-3,2.25,1.5\n2,1,0\n6.125,5,-4.5\n'),
        ("a.txt", "\ufeff1.5 2.25 -3\r\n0 1 2\r\n-4.5 5 6.125\r\n"),
    ],
)
def test_text_files(tmp_path, name, text):
    cloud, parts = read_cloud(write(tmp_path / name, text), 10, 0)
    assert np.array_equal(cloud, XYZ.astype(np.float32))
    assert parts is None


def test_parts_of_text_files_are_a_column_of_the_file(tmp_path):
    path = write(tmp_path / "a.txt", "part;x;y;z\n3;1.5;2.25;-3\n0;0;1;2\n1;-4.5;5;6.125\n")
    cloud, parts = read_cloud(path, 10, 0, part_column=0)
    assert np.array_equal(cloud, XYZ.astype(np.float32))
    assert parts.tolist() == [3, 0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.pts", "4\n" + PLAIN, "announces 4 points and has 3"),
        ("a.xyz", "3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n", "cannot be read|holds no numbers"),
        ("a.txt", "a b c\n1 2 3\n", "first line 'a b c' holds no numbers and does not name x, y and z"),
        ("a.txt", "x y z\n", "has no points"),
        ("a.txt", "", "has no points"),
        ("a.txt", "1 2 3\n1 2\n", "cannot be read"),
        ("a.txt", "x y q z\n1 2 3\n", "has 3 columns, its header names more"),
        ("a.asc", "ncols 4\nnrows 6\n1 2 3\n", "does not name x, y and z"),
    ],
)
def test_text_files_that_are_no_clouds(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_cloud(write(tmp_path / name, text), 10, 0)


@pytest.mark.parametrize("key", ["pc", "points", "xyz", "pos", "data"])
def test_keys_of_npz_files(tmp_path, key):
    np.savez(tmp_path / "a.npz", **{key: XYZ})
    assert np.array_equal(read_cloud(tmp_path / "a.npz", 10, 0)[0], XYZ.astype(np.float32))
    np.savez(tmp_path / "all.npz", **{key: np.stack([XYZ, XYZ + 1])}, y=np.array([0, 1]))
    assert np.array_equal(load_clouds(str(tmp_path / "all.npz"))["train"].clouds[1], (XYZ + 1).astype(np.float32))


# ---- .pcd ----------------------------------------------------------------------------------------------------------------------------


def pcd(how: str, rows: np.ndarray, height: int = 1) -> bytes:
    """x, y, z as floats with a padding field between, and three bytes behind."""
    head = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x pad y z rgb\nSIZE 4 2 8 4 1\nTYPE F U F F U\n"
        f"COUNT 1 1 1 1 3\nWIDTH {len(rows) // height}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\nDATA {how}\n"
    ).encode()
    if how == "ascii":
        return head + "".join(f"{x:g} 7 {y:g} {z:g} 1 2 3\n" for x, y, z in rows).encode()
    if how == "binary":
        return head + b"".join(struct.pack("<fHdf3B", x, 7, y, z, 1, 2, 3) for x, y, z in rows)
    fields = [
        rows[:, 0].astype("<f4"),
        np.full(len(rows), 7, "<u2"),
        rows[:, 1].astype("<f8"),
        rows[:, 2].astype("<f4"),
    ]
    plain = b"".join(field.tobytes() for field in fields) + bytes([1, 2, 3]) * len(rows)
    packed = pack_lzf(plain)
    return head + struct.pack("<II", len(packed), len(plain)) + packed


def pack_lzf(plain: bytes) -> bytes:
    """A greedy compressor by the format's description: literals, and repetitions of 3 bytes and more at most 8192 back."""
    out, literal, at = bytearray(), bytearray(), 0

    def flush() -> None:
        for start in range(0, len(literal), 32):
            piece = literal[start : start + 32]
            out.extend([len(piece) - 1, *piece])
        literal.clear()

    while at < len(plain):
        best, where = 0, 0
        for start in range(max(0, at - 8192), at):
            length = 0
            while length < 264 and at + length < len(plain) and plain[start + length] == plain[at + length]:
                length += 1
            if length > best:
                best, where = length, at - start - 1
        if best < 3:
            literal.append(plain[at])
            at += 1
            continue
        flush()
        length = best - 2
        out.extend([length << 5 | where >> 8] if length < 7 else [7 << 5 | where >> 8, length - 7])
        out.append(where & 255)
        at += best
    flush()
    return bytes(out)


@pytest.mark.parametrize("how", ["ascii", "binary", "binary_compressed"])
def test_pcd_files(tmp_path, how):
    rows = np.concatenate([XYZ] * 40)
    cloud, _ = read_cloud(write(tmp_path / "a.pcd", pcd(how, rows)), 10, 0)
    assert np.array_equal(cloud, rows.astype(np.float32))
    holes = rows.copy()
    holes[5:9, 1] = np.nan  # organised clouds mark what was not measured
    cloud, _ = read_cloud(write(tmp_path / "b.pcd", pcd(how, holes, height=4)), 10, 0)
    assert np.array_equal(cloud, np.delete(rows, range(5, 9), 0).astype(np.float32))


def test_repetitions_reach_into_themselves():
    plain = b"abc" * 200 + bytes(3000) + b"xyz" + b"abc" * 5
    assert len(pack_lzf(plain)) < 100
    assert unpack_lzf(pack_lzf(plain), len(plain), "x") == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-9], "is cut after 119"),
        (lambda data: data.replace(b"FIELDS x", b"FIELDS q"), "no fields x, y and z"),
        (lambda data: data.replace(b"POINTS 120", b"POINTS 999999999999"), "announces 999999999999 points"),
        (lambda data: data.replace(b"DATA binary", b"DATA zip"), "has DATA 'zip'"),
        (lambda data: data.replace(b"SIZE 4 2", b"SIZE 4"), "do not fit together"),
        (lambda data: data.replace(b"TYPE F U", b"TYPE F Q"), "do not fit together"),
        (lambda data: b"nothing", "no header of a .pcd file"),
        (lambda data: data.replace(b"POINTS 120\n", b""), "its header lacks POINTS"),
    ],
)
def test_damaged_pcd_files(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read_cloud(write(tmp_path / "a.pcd", change(pcd("binary", np.concatenate([XYZ] * 40)))), 10, 0)


def test_damaged_compressed_pcd_files(tmp_path):
    whole = pcd("binary_compressed", np.concatenate([XYZ] * 40))
    for number, damaged in enumerate((whole[:-4], whole[:-4] + b"\xff\xff\xff\xff", whole[: whole.index(b"DATA")])):
        with pytest.raises(DataError, match="a.pcd"):
            read_cloud(write(tmp_path / str(number) / "a.pcd", damaged), 10, 0)


# ---- .las, .laz ----------------------------------------------------------------------------------------------------------------------


def las(path: Path, points: np.ndarray) -> Path:
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.offsets, header.scales = points.min(0), np.full(3, 0.001)
    content = laspy.LasData(header)
    content.x, content.y, content.z = points.T
    content.classification = np.arange(len(points)) % 3
    content.write(path)
    return path


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_files(tmp_path, suffix):
    """Coordinates of a map: float32 would round them to half metres, so the cloud is centred."""
    shape = np.random.default_rng(0).uniform(0, 5, (500, 3)).round(3)
    path = las(tmp_path / f"a{suffix}", shape + np.array([412_345.0, 5_654_321.0, 80.0]))
    cloud, _ = read_cloud(path, 10, 0)
    want = shape - shape.mean(0)
    assert np.abs(cloud - want).max() < 1e-3
    close = normalise(cloud, "unit_sphere")
    assert np.abs(close - want / np.linalg.norm(want, axis=1).max()).max() < 1e-3
    near, _ = read_cloud(las(tmp_path / f"b{suffix}", shape), 10, 0)
    assert np.abs(near - shape).max() < 1e-3  # not moved


def test_las_files_that_cannot_be_read(tmp_path):
    path = las(tmp_path / "a.las", np.random.default_rng(0).uniform(0, 5, (50, 3)))
    for content in (b"", b"LASF", path.read_bytes()[:-300]):
        with pytest.raises(DataError, match="'a.las'|a.las"):
            read_cloud(write(tmp_path / "b" / "a.las", content), 10, 0)
    with pytest.raises(DataError, match="no columns of parts"):
        read_cloud(path, 10, 0, part_column=-1)


def test_clouds_far_from_the_origin_keep_their_shape():
    shape = np.random.default_rng(1).uniform(0, 2, (60, 3))
    assert np.abs(check_cloud(shape + 6e6, "x") - (shape - shape.mean(0))).max() < 1e-5
    assert np.array_equal(check_cloud(shape + 10, "x"), (shape + 10).astype(np.float32))


def test_every_kind_in_a_folder(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    write(tmp_path / "d" / "a" / "0.pcd", pcd("binary", rows))
    las(tmp_path / "d" / "a" / "1.las", rows)
    write(tmp_path / "d" / "b" / "0.pts", "60\n" + "".join(f"{x} {y} {z} 1\n" for x, y, z in rows))
    data = load_clouds(str(tmp_path / "d"))["train"]
    assert list(data.ids) == ["a/0.pcd", "a/1.las", "b/0.pts"]
    assert all(np.abs(cloud - rows).max() < 1e-3 for cloud in data.clouds)
    found = input_clouds([str(tmp_path / "d" / "a")], seeded_make(IDPT, neighbours=5), PredictOptions())
    assert len(found) == 2


# ---- labels --------------------------------------------------------------------------------------------------------------------------


def tabled(root: Path, rows: list[tuple[str, str]], name: str = "t.csv") -> str:
    for file, _ in rows:
        if file:
            write(root / file, PLAIN)
    mark = "\t" if name.endswith(".tsv") else ","
    return str(write(root / name, f"path{mark}label\n" + "".join(f"{file}{mark}{label}\n" for file, label in rows)))


@pytest.mark.parametrize("cell", ["", "nan", "NA", "null"])
def test_empty_cells_are_no_class(tmp_path, cell):
    spec = tabled(tmp_path, [("a.xyz", "cup"), ("b.xyz", cell)])
    with pytest.raises(DataError, match="row 3, column 'label' has no class"):
        load_clouds(spec)
    with pytest.raises(DataError, match=r"cloud 1 has no class"):
        np.savez(tmp_path / "all.npz", points=np.stack([XYZ, XYZ]), y=np.array(["cup", cell]))
        load_clouds(str(tmp_path / "all.npz"))


def test_names_stay_as_they_are_written(tmp_path):
    for name in ("t.csv", "t.tsv"):
        data = load_clouds(tabled(tmp_path, [("001.xyz", "01"), ("002.xyz", "1"), ("003.xyz", "2")], name))["train"]
        assert (list(data.classes), data.labels) == (["01", "1", "2"], [0, 1, 2])
        assert data.ids[0] == "001.xyz"


def test_lists_as_labels_are_refused(tmp_path):
    write(tmp_path / "a.xyz", PLAIN)
    pd.DataFrame({"path": ["a.xyz"], "label": [["cup", "pot"]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"row 2, column 'label' has array.* as its class"):
        load_clouds(str(tmp_path / "t.parquet"))
    pd.DataFrame({"path": ["a.xyz"] * 2, "label": [1.0, None]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 3, column 'label' has no class"):
        load_clouds(str(tmp_path / "t.parquet"))


def test_amounts_are_no_classes(tmp_path):
    with pytest.raises(DataError, match=r"label 2\.5 is no class \(regression is not supported\)"):
        load_clouds(tabled(tmp_path, [("a.xyz", "2.5"), ("b.xyz", "1.0")]))
    many = [("a.xyz", str(7 * n)) for n in range(60)]
    with pytest.raises(DataError, match="60 distinct numbers in 60 clouds look like amounts"):
        load_clouds(tabled(tmp_path, many))
    clouds = np.stack([XYZ] * 60)
    np.savez(tmp_path / "all.npz", points=clouds, y=np.arange(60) * 3)
    with pytest.raises(DataError, match="look like amounts"):
        load_clouds(str(tmp_path / "all.npz"))
    np.savez(tmp_path / "all.npz", points=clouds, y=np.arange(60), classes=np.array([f"c{n}" for n in range(60)]))
    assert len(load_clouds(str(tmp_path / "all.npz"))["train"].classes) == 60


def test_a_header_alone_is_no_data(tmp_path, capsys):
    for spec, message in (
        (tabled(tmp_path, []), "t.csv has no rows below its header"),
        (str(write(tmp_path / "e.csv", "")), "not a readable table"),
    ):
        assert run("fit", "linear", "--data", spec, "--out", tmp_path / "run") == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said


# ---- arrays in memory ----------------------------------------------------------------------------------------------------------------


def test_tensors_with_gradients_and_of_half_precision_are_read():
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    method = seeded_make(IDPT, neighbours=5)
    for given in (rows.clone().requires_grad_(), rows.double(), rows.numpy(), rows.tolist()):
        found = input_clouds([given], method, PredictOptions())
        assert np.array_equal(found.clouds[0], rows.numpy())
    half = input_clouds([rows.bfloat16()], method, PredictOptions())
    assert np.array_equal(half.clouds[0], rows.bfloat16().float().numpy())


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([[1, 2, 3], [1, 2]], "cloud 0 is no array of points"),
        (np.array([["a", "b", "c"]]), "holds no numbers"),
        (np.zeros(3), r"cloud 0 has shape \(3,\)"),
        (np.zeros((4, 3), dtype=complex), "holds no numbers"),
    ],
)
def test_what_is_no_cloud_in_memory(item, message):
    with pytest.raises(UserError, match=message):
        input_clouds([item], seeded_make(IDPT, neighbours=5), PredictOptions())


def test_options_say_what_a_variant_is():
    assert DataOptions().variant is None
