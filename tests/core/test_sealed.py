"""Sealed folders are complete or absent; what cannot be trusted is refused by name."""

import json
import os
import pickle
import resource
import signal
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pt_core import sealed
from pt_core.errors import ArtifactError
from pt_core.sealed import (
    check_finite,
    inside,
    read_json,
    read_manifest,
    read_tensors,
    sweep,
    write_sealed,
    write_text,
)


def content(value=1.0, size=50_000):
    return {"t.safetensors": {"a": torch.full((size,), value)}, "sub/note.json": '{"x": 1}', "raw.bin": b"\x00\x01"}


@contextmanager
def full_disk(limit):
    """Files of this process can not grow beyond `limit` bytes, as on a disk without space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_written_folder_reads_back(tmp_path):
    write_sealed(tmp_path / "f", content())
    assert set(read_manifest(tmp_path / "f")["files"]) == set(content())
    assert torch.equal(read_tensors(tmp_path / "f" / "t.safetensors")["a"], content()["t.safetensors"]["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_all_files_of_a_folder_may_be_read_by_the_same_people(tmp_path):
    write_sealed(tmp_path / "f", content())
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in [*(tmp_path / "f").rglob("*"), tmp_path / "plain"] if path.is_file()}
    assert len(modes) == 1


def test_tied_and_expanded_tensors_are_storable(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    write_sealed(tmp_path / "f", {"t.safetensors": {"a": base, "b": base, "c": base.T, "d": base[0].expand(4, 3)}})
    found = read_tensors(tmp_path / "f" / "t.safetensors")
    assert torch.equal(found["c"], base.T)
    assert found["d"].shape == (4, 3)


@pytest.mark.parametrize("limit", [100, 4096])
def test_full_disk_names_path_and_bytes_and_keeps_the_old_folder(tmp_path, limit):
    write_sealed(tmp_path / "f", content(1.0))
    with full_disk(limit), pytest.raises(ArtifactError, match=r"cannot write .*/f \(200,0\d\d bytes\)"):
        write_sealed(tmp_path / "f", content(2.0))
    read_manifest(tmp_path / "f")
    assert read_tensors(tmp_path / "f" / "t.safetensors")["a"][0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_full_disk_keeps_the_old_text_file(tmp_path):
    write_text(tmp_path / "x.json", "old")
    with full_disk(100), pytest.raises(ArtifactError, match=r"x.json \(5,000 bytes\)"):
        write_text(tmp_path / "x.json", "n" * 5000)
    assert (tmp_path / "x.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_failure_at_the_last_moment_keeps_the_old_folder(tmp_path, monkeypatch):
    write_sealed(tmp_path / "f", content(1.0))
    real = os.replace

    def failing(source, target):
        if Path(target).name == "f":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(sealed.os, "replace", failing)
    with pytest.raises(ArtifactError, match="No space left"):
        write_sealed(tmp_path / "f", content(2.0))
    monkeypatch.undo()
    sweep(tmp_path)
    assert read_tensors(tmp_path / "f" / "t.safetensors")["a"][0] == 1.0


def test_sweep_removes_what_killed_writers_left_and_puts_a_retired_folder_back(tmp_path):
    write_sealed(tmp_path / "kept", content())
    write_sealed(tmp_path / "gone", content(3.0))
    (tmp_path / "gone").rename(tmp_path / ".gone.old-77")
    (tmp_path / ".kept.tmp-77").mkdir()
    (tmp_path / ".kept.tmp-77" / "t.safetensors").write_bytes(b"half")
    (tmp_path / ".run.json.tmp-77").write_text("half")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gone", "kept"]
    assert read_manifest(tmp_path / "gone")


@pytest.mark.parametrize("name", list(content()))
@pytest.mark.parametrize("damage", ["truncated", "empty", "first", "middle", "last", "missing"])
def test_damaged_file_is_refused_with_file_expected_and_found(tmp_path, name, damage):
    write_sealed(tmp_path / "f", content(size=500))
    path = tmp_path / "f" / name
    data = bytearray(path.read_bytes())
    if damage in ("first", "middle", "last"):
        position = {"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[damage]
        data[position] ^= 0x10
        expected = rf"{path} has sha256 [0-9a-f]+\.\.\., expected [0-9a-f]+"
    else:
        data = data[:-1] if damage == "truncated" else bytearray()
        expected = rf"{path} has {len(data):,} bytes, expected [\d,]+"
    path.write_bytes(data)
    if damage == "missing":
        path.unlink()
        expected = f"{path} is missing"
    with pytest.raises(ArtifactError, match=expected):
        read_manifest(tmp_path / "f")


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[]",
        "7",
        '{"files": 3}',
        '{"files": {"note": 1}}',
        '{"files": {"note": {}}}',
        '{"files": {"note": {"bytes": "1", "sha256": "x"}}}',
        '{"files": {"note": {"bytes": 1}}}',
    ],
)
def test_malformed_manifest_is_refused(tmp_path, manifest):
    (tmp_path / "note").write_text("x")
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ArtifactError, match="manifest.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "x\0y", "n" * 5000, "link/secret"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    folder = tmp_path / "f"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="outside|no usable file name"):
        inside(folder, name)
    (folder / "manifest.json").write_text(json.dumps({"files": {name: {"bytes": 1, "sha256": "0"}}}))
    with pytest.raises(ArtifactError, match="outside|no usable file name"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not readable JSON"),
        ("{'a': 1}", "not readable JSON"),
        ('{"a": ' + "9" * 100_000 + "}", "not readable JSON"),
        ('{"a": ' * 50 + "1" + "}" * 50, "nested at most"),
        ("[" * 200_000 + "]" * 200_000, "not readable JSON|nested at most"),
        ("[1]", "JSON object"),
    ],
)
def test_hostile_json_is_refused(tmp_path, text, reason):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ArtifactError, match=reason):
        read_json(tmp_path / "x.json")


def test_large_json_is_refused_unread(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(sealed.MAX_JSON_BYTES + 1)
    with pytest.raises(ArtifactError, match="more than the"):
        read_json(tmp_path / "x.json")


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_are_never_opened(tmp_path):
    marker = tmp_path / "executed"
    for name, data in (
        ("plain", pickle.dumps(Marker(marker))),
        ("torch", None),
    ):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(data) if data is not None else torch.save({"w": Marker(marker)}, file)
        with pytest.raises(ArtifactError, match="pickles are never loaded"):
            read_tensors(file)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Marker(marker)))
    assert marker.exists(), "the marker works, so its absence above means something"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_non_finite_tensors_are_named(value, dtype):
    check_finite({"count": torch.tensor([1, 2])}, "x")
    with pytest.raises(ArtifactError, match="'bad' in the file"):
        check_finite({"good": torch.ones(2), "bad": torch.tensor([1.0, value], dtype=dtype)}, "the file")


def write_without_pause(folder):
    number = 0
    while True:
        number += 1
        tensors = {str(i): torch.full((40_000,), float(number)) for i in range(4)}
        write_sealed(folder / "f", {"t.safetensors": tensors, "n.json": f'{{"n": {number}}}'})


@pytest.mark.parametrize("moment", range(20))
def test_kill_9_while_writing_leaves_a_whole_folder(tmp_path, moment):
    write_sealed(tmp_path / "f", {"t.safetensors": {"0": torch.zeros(4)}, "n.json": '{"n": 0}'})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no thread of its parent
        child = os.fork()
    if child == 0:
        try:
            write_without_pause(tmp_path)
        finally:
            os._exit(1)
    while read_number(tmp_path / "f") in (0, None):
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    time.sleep(float(torch.rand((), generator=torch.Generator().manual_seed(moment))) * 0.05)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    sweep(tmp_path)
    read_manifest(tmp_path / "f")
    number = read_number(tmp_path / "f")
    assert all((t == number).all() for t in read_tensors(tmp_path / "f" / "t.safetensors").values())
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def read_number(folder):
    """The number of the folder's version; None in the instant of the exchange."""
    try:
        return json.loads((folder / "n.json").read_text())["n"]
    except FileNotFoundError:
        return None
