"""Losses of the first steps, as they were when the method was checked against its card; another torch may move them by 1e-3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pt_audio.methods.acoustic_apt import AcousticAPT
from pt_audio.methods.projector import Projector
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.testing._support import build

from tests.audio import tiny

GOLDEN = {
    "acoustic_apt": [4.17799, 4.03833, 3.89044],
    "two_stages": [5.96257, 5.14988, 4.22073, 3.9809, 3.6811],
    "projector": [4.03377, 3.85464, 3.77214],
}
CASES = {
    "acoustic_apt": (AcousticAPT, {}),
    "two_stages": (AcousticAPT, {"align_steps": 2, "align_lr": 0.01}),
    "projector": (Projector, {"positions": 2}),
}


def losses(name: str, folder: Path) -> list[float]:
    cls, options = CASES[name]
    case = tiny.case(cls, 0, **options)
    method = build(case)
    with RunDir(folder, True).open(False) as run:
        run.update({"status": "running"})
        Trainer(method, case.data, case.options, run, World(case.options)).fit()
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if entry["split"] == "train"]


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_of_the_first_steps(name: str, tmp_path: Path) -> None:
    torch.testing.assert_close(torch.tensor(losses(name, tmp_path)), torch.tensor(GOLDEN[name]), rtol=1e-3, atol=0)
