"""Real audio: the reference logits of the keyword transformer, digits by generation, and episodes. Needs PT_REALDATA."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pt_audio.backbones import load_backbone

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(os.environ["PT_REALDATA"])


def test_reference_logits_of_the_keyword_transformer(data: Path) -> None:
    encoder: Any = load_backbone(f"kwt:{data / 'audio_kwt1'}")
    stored = json.loads((data / "audio_kwt1" / "config.json").read_text())
    with np.load(data / "speech_commands_ar" / "test.npz", allow_pickle=False) as arrays:
        clips = arrays["x"]
    for reference in stored["reference"]:
        wave = torch.from_numpy(clips[reference["clip"]].astype(np.float32) / 32768)
        logits = encoder.module.classify(encoder.front(wave))[0]
        torch.testing.assert_close(logits, torch.tensor(reference["logits"]), rtol=0, atol=6e-5)  # stored to 4 places


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_are_named_by_generation_and_only_because_of_the_audio(data: Path, tmp_path: Path) -> None:
    from benchmarks.audio.sets import write
    from benchmarks.audio.table import CELLS, encoder, run

    cell = CELLS["digits, kwt1"]
    shared = {
        role: load_backbone(f"builtin:{name}_sounds", None, role) for role, name in (("text", "bert"), ("lm", "lm"))
    }
    backbones = {"encoder": encoder("kwt", data), **shared}
    found = run(cell, 0, write("spoken_digits", data, tmp_path), tmp_path / "run", backbones)
    assert found["exact_match"] > 0.8
    assert found["shuffled"] < 0.2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_episodes_beat_chance(data: Path, tmp_path: Path) -> None:
    from benchmarks.audio.sets import write
    from benchmarks.audio.table import CELLS, encoder, run

    cell = {**CELLS["digits, episodes, kwt1"], "steps": 150}
    shared = {
        role: load_backbone(f"builtin:{name}_sounds", None, role) for role, name in (("text", "bert"), ("lm", "lm"))
    }
    backbones = {"encoder": encoder("kwt", data), **shared}
    found = run(cell, 0, write("spoken_digits", data, tmp_path), tmp_path / "run", backbones)
    assert found["exact_match"] > 0.3  # one in five by chance
