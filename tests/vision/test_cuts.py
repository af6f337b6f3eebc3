"""The promise of --accumulate and of several processes, kept by the package's own command with default options (prompt dropout 0.1)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pt_vision
import pytest
from pt_core.artifact import read_artifact
from torch import Tensor

from tests.command import good
from tests.vision.methods.classification.common import seeded_make

OPTIONS = {"data": "builtin:digits", "shots": 4, "steps": 4, "device": "cpu", "quiet": True}
"""40 images: 64 of the default batch do not fit, so that a draw has all of them."""


def tuned(folder: Path) -> Mapping[str, Tensor]:
    return read_artifact(folder).tensors


def fit(folder: Path, method: str = "vpt", **options: object) -> Mapping[str, Tensor]:
    return tuned(pt_vision.fit(method, out=folder, **{**OPTIONS, **options}).path)


def distance(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> float:
    """Largest difference, relative to the largest value of a tensor."""
    assert have.keys() == want.keys()
    return max(float((have[name] - tensor).abs().max() / tensor.abs().max()) for name, tensor in want.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tensor]:
    return fit(tmp_path_factory.mktemp("cuts") / "whole")


@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_of_a_default_run_change_nothing(parts: int, whole: Mapping[str, Tensor], tmp_path: Path) -> None:
    assert distance(fit(tmp_path / "cut", accumulate=parts), whole) < 1e-5


def test_dropout_is_on_in_these_runs(whole: Mapping[str, Tensor], tmp_path: Path) -> None:
    assert distance(fit(tmp_path / "without", prompt_dropout=0.0), whole) > 1e-2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_end_where_one_ends(whole: Mapping[str, Tensor], tmp_path: Path) -> None:
    folder = Path(sys.executable).parent
    command = [
        str(folder / "torchrun"),
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
        str(folder / "pt-vision"),
    ]
    flags = [
        "--data",
        "builtin:digits",
        "--shots",
        "4",
        "--steps",
        "4",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "two"),
    ]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "fit", "vpt", *flags], env=variables, timeout=280, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert distance(tuned(tmp_path / "two"), whole) < 1e-5


def test_what_couples_images_is_declared_and_said_in_the_help() -> None:
    assert not seeded_make("vpt").coupled
    assert seeded_make("vpt", head_layers=1).coupled, "BatchNorm"
    assert not seeded_make("full").coupled
    assert seeded_make("full", stochastic=True).coupled
    said = " ".join(good("fit", "full", "--help").out.split())
    assert "results then depend on how a batch is cut" in said
