"""Artifacts whose cards ask for absurd sizes: one line, at once, and no memory given to them. The limits are lowered here, so that a defect
of theirs would cost the test nothing."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from pt_core import bounded
from pt_core.sealed import read_json, read_tensors, write_sealed

from tests.command import good, refused


def crafted(config: dict[str, Any] | None = None, size: list[Any] | None = None) -> str:
    """A copy of run a's artifact, with other options or another recorded input size; its hashes are right."""
    source = Path("a", "tuned")
    card = read_json(source / "card.json")
    card["config"] |= config or {}
    if size is not None:
        (entry,) = card["backbones"].values()
        entry["preprocessing"]["input_size"] = size
    shutil.rmtree("crafted", ignore_errors=True)
    weights = read_tensors(source / "weights.safetensors")
    write_sealed(Path("crafted"), {"card.json": json.dumps(card), "weights.safetensors": weights})
    return "crafted"


SIZES: dict[str, dict[str, Any]] = {
    "layers": {"head_layers": 3000},
    "layers with a point": {"head_layers": 3000.0},
    "a prompt": {"prompt_length": 200_000},
    "a prompt with a point": {"prompt_length": 200_000.0},
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("command", [("predict", "photos"), ("export", "--out", "again")])
def test_a_card_that_asks_for_too_much(
    name: str, command: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "CALLS", 1000)
    start = time.perf_counter()
    outcome = refused("cannot be built|shape", command[0], crafted(SIZES[name]), *command[1:])
    assert len(outcome.errors) == 1
    assert len(outcome.errors[0]) < 500
    assert time.perf_counter() - start < 30
    assert not Path("again").exists()


@pytest.mark.parametrize("size", [[3, 10**6, 10**6], [3, 1e9, 1e9], [3, -16, 16], [3, "16", 16]])
def test_a_card_that_asks_for_enormous_images(size: list[Any], place: Path) -> None:
    outcome = refused("no size of images up to 8,192 pixels", "predict", crafted(size=size), "photos")
    assert len(outcome.errors) == 1


def test_the_limits_leave_what_is_ordinary_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "CALLS", 1000)
    assert good("predict", crafted(), "photos/cat").out == good("predict", "a", "photos/cat").out
