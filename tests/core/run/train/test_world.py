"""A plain process needs no launcher's library; with one around, or with gradient scaling, the world is Accelerate's."""

from __future__ import annotations

import os

import pytest
import torch
from pt_core.run.declare import process
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.world import World


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    """What Accelerate is asked for; nothing of a launcher is in the environment."""
    for name in (*process.COUNTS, *(name for name in os.environ if name.startswith("ACCELERATE_"))):
        monkeypatch.delenv(name, raising=False)
    asked: list[tuple[bool, str]] = []

    def note(self: World, cpu: bool, precision: str) -> None:
        asked.append((cpu, precision))
        self.device = torch.device("cpu")

    monkeypatch.setattr(World, "_join", note)
    return asked


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plain_process_is_a_world_of_its_own(precision: str, joined: list) -> None:
    world = World(TrainOptions(device="cpu", precision=precision))  # type: ignore[arg-type]
    assert joined == []
    assert (world.rank, world.size, world.main, world.device) == (0, 1, True, torch.device("cpu"))
    assert world.gather([1]) == [1]
    assert world.scaler is None


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "ACCELERATE_USE_CPU"])
def test_any_sign_of_a_launcher_asks_accelerate(name: str, joined: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    World(TrainOptions(device="cpu"))
    assert joined == [(True, "no")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_ways_give_one_device_and_one_autocast(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for sign in (False, True):
        if sign:
            monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        world = World(TrainOptions(device="cpu", precision=precision))  # type: ignore[arg-type]
        with world.autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        found.append((world.device.type, world.size, world.scaler, product.dtype))
    assert found[0] == found[1]
    assert found[0][3] == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
