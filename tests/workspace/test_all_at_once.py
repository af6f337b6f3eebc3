"""All that is wrong with a command is told in one go, in every package, before any data are read; by the Python API as well."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from pt_core.errors import ConfigError
from pt_core.run.command import cli
from pt_core.run.command.api import Api
from pt_core.run.declare.package import Package

PACKAGES = {
    "pt_vision": ("Vision", "vpt"),
    "pt_language": ("Language", "prefix"),
    "pt_graph": ("Graph", "gpf"),
    "pt_audio": ("Audio", "acoustic_apt"),
    "pt_timeseries": ("TimeSeries", "pond"),
    "pt_pointcloud": ("PointClouds", "idpt"),
}


@pytest.fixture(params=PACKAGES)
def package(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[type[Package], str]:
    """(modality, method), in a folder with a file and a folder without a run; reading data or weights fails the test."""
    name, method = PACKAGES[request.param]
    kind: type[Package] = getattr(importlib.import_module(f"{request.param}.modality"), name)

    def read(*arguments: object, **named: object) -> None:
        raise AssertionError("nothing may be read")

    for hook in ("load_data", "load_backbone"):
        monkeypatch.setattr(kind, hook, read)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("empty").mkdir()
    return kind, method


def told(modality: Callable[[], Package], *words: str) -> list[str]:
    """The problems of a command that is refused, which leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        cli.main(modality, words)
    assert stop.value.code == 2, err.getvalue()
    assert sorted(Path().rglob("*")) == before
    lines = err.getvalue().splitlines()
    assert all(line.startswith("error: ") for line in lines), lines
    return [line.removeprefix("error: ") for line in lines]


def holds(lines: list[str], *problems: str) -> None:
    """Every line is one of the problems, and every problem has a line."""
    assert len(lines) == len(problems), lines
    for problem in problems:
        assert sum(problem in line for line in lines) == 1, (problem, lines)


def test_everything_that_names_something(package: tuple[type[Package], str]) -> None:
    kind, method = package
    role = next(iter(kind().registry.info(method).backbones))
    holds(
        told(
            kind, "fit", method, "--data", "nodata", "--backbone", f"{role}=builtin:nowhere", "--config", "no.yaml",
            "--recipe", "fastest", "--init-from", "gone", "--init-from", "empty", "--search", "lr", "--search", "stps=1,2",
            "--class-names", "one.txt", "--out", "file/run", "--lrr", "3", "--batch-size", "0", "--seed",
        ),
        "nodata", "'nowhere'; known", "config file no.yaml does not exist", "no recipe 'fastest'",
        "--init-from gone does not exist", "--init-from empty holds no tuned artifact", "--search 'lr' is not of the form",
        "--class-names one.txt: no such file",
        *(() if kind.class_texts else ("--class-names: the classes of this method are those of its data",)),
        "--out file/run: ", "unknown option '--lrr' (did you mean '--lr'?)", "batch_size='0'",
        "Option '--seed' requires an argument",
    )  # fmt: skip


def test_data_that_are_not_named_and_values_to_search(package: tuple[type[Package], str]) -> None:
    kind, method = package
    holds(
        told(kind, "fit", method, "--search", "stps=1,2", "--search", "lr=fast,1e-3", "--precision", "fp8", "--out", "file"),
        "--data is missing", "unknown option 'stps' (did you mean 'steps'?)", "lr='fast'", "precision='fp8'", "--out file is a file",
    )  # fmt: skip


def test_a_role_that_the_method_does_not_have(package: tuple[type[Package], str]) -> None:
    kind, method = package
    lines = told(
        kind, "fit", method, "--data", "tran=file", "--data", "foo=gone", "--lr", "fast", "--weights", "gone.pth"
    )
    roles = ", ".join(dict.fromkeys(("train", *kind().registry.info(method).roles, "val", "test")))
    assert f"--data names role 'tran' (did you mean 'train'?); this method has: {roles}" in lines
    assert f"--data names role 'foo'; this method has: {roles}" in lines
    assert any("gone" in line and "role" not in line for line in lines)
    assert any("gone.pth" in line for line in lines)
    assert any("lr='fast'" in line for line in lines)


def test_the_python_api_tells_them_in_one_exception(package: tuple[type[Package], str]) -> None:
    kind, method = package
    role = next(iter(kind().registry.info(method).backbones))
    with pytest.raises(ConfigError) as caught:
        Api(kind).fit(
            method, data="gone", backbone={role: "builtin:nowhere"}, out="file", recipe="fastest", lrr=3, batch_size=0,
            class_names="a,a", quiet=True,
        )  # fmt: skip
    holds(
        caught.value.problems,
        "gone", "'nowhere'; known", "file is a file", "no recipe 'fastest'", "unknown option 'lrr'", "batch_size=0",
        *(("--class-names a,a: no such file",) if kind.class_texts else ("'a' is there twice", "--class-names: the classes")),
    )  # fmt: skip
    assert sorted(Path().iterdir()) == [Path("empty"), Path("file")]


def test_a_role_of_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CoDA takes easy and hard images apart; plain self-training would have ignored them."""
    from pt_vision.modality import Vision

    monkeypatch.chdir(tmp_path)
    words = ("--data", "builtin:streets_small", "--data", "hard=builtin:streets_small", "--lr", "fast")
    (line,) = told(Vision, "fit", "coda", *words)
    assert "lr='fast'" in line
    holds(
        told(Vision, "fit", "self_training", *words),
        "--data names role 'hard'; this method has: train, target, val, test", "lr='fast'",
    )  # fmt: skip


def test_a_device_and_a_tracker_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import torch
    from pt_vision.modality import Vision

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    holds(
        told(Vision, "fit", "vpt", "--device", "cuda", "--trackers", "wandb", "--data", "gone", "--out", "run"),
        "no CUDA device is visible", "'wandb' is not installed; run: pip install 'pt-core[wandb]'", "--data 'gone' does not exist",
    )  # fmt: skip
    words = (
        "fit",
        "vpt",
        "--device",
        "cpu",
        "--precision",
        "fp16",
        "--data",
        "x" * 5000,
        "--select=yes",
        "--out",
        "run",
    )
    holds(
        told(Vision, *words),
        "precision='fp16' needs a CUDA device", "Option '--select' does not take a value", "File name too long",
    )  # fmt: skip
