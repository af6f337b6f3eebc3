"""What is shipped: small, of known origin, and able to do what the recipes say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pt_audio.adapters.language_model import LanguageModel
from pt_audio.backbones import ASSETS, load_backbone
from pt_audio.data import synth, wording as say
from pt_audio.pretrain import encoder as pretrain, text as pretrain_text
from pt_core.bridges import transformers as bridge

from tests.audio.test_commands import good


def test_assets_are_small_and_have_recipes() -> None:
    for name in ("mae_sounds", "bert_sounds", "lm_sounds"):
        assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) < 5_000_000
    encoder = json.loads((ASSETS / "mae_sounds" / "recipe.json").read_text())
    text = json.loads((ASSETS / "lm_sounds" / "recipe.json").read_text())
    assert encoder["held_out_tags"] > 0.9
    assert encoder["config"] == pretrain.asdict(pretrain.EncoderConfig())
    assert text["accuracy"]["answers"] > 0.75
    assert text["accuracy"]["repeated_keys"] > 0.5
    assert text["config"] == pretrain_text.asdict(pretrain_text.TextConfig())


def test_the_encoder_hears_generated_sounds() -> None:
    encoder = load_backbone("builtin:mae_sounds")
    right = 0
    for label in synth.LABELS:
        wave = synth.clip(np.random.default_rng(5), 5.0, [label]).wave
        segment = encoder.front(torch.from_numpy(wave))
        with torch.no_grad():
            right += int(encoder.module.classify(encoder.vectors(segment)).argmax() == synth.LABELS.index(label))
    assert right >= 10  # of 15


def answer(lm: LanguageModel, text: str) -> str:
    ids = torch.tensor([[lm.begin, *lm.tokens(text)]])
    found = lm({"ids": ids, "mask": torch.ones_like(ids), "keep": 1}, read=("logits", "cache")).extra
    tokens = bridge.generate(
        lm.module, ids, found["cache"], found["mask"], 12, {"eos_token_id": lm.end, "do_sample": False}
    )
    return lm.text(tokens[0].tolist())


def test_the_language_model_answers_from_what_stands_in_front() -> None:
    lm: LanguageModel = load_backbone("builtin:lm_sounds", None, "lm")  # type: ignore[assignment]
    words = ["bell", "dog", "rain", "siren", "seven", "rooster", "stop", "guitar"]
    assert sum(answer(lm, f"{w} {w} {w} {say.SHOT}") == w for w in words) >= 7
    assert sum(answer(lm, f"{w} {w} {say.TAGGING}").split()[0] == w for w in words) >= 7
    assert sum(answer(lm, f"{w} {w} {w} {say.PRESENT.format(w)}") == "yes" for w in words) >= 5


@pytest.mark.slow
def test_the_demo_runs_and_answers(tmp_path: Path) -> None:
    out = good("demo", "--fast", "--out", tmp_path / "demo")
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["method", "tuned", "parameters"]
    assert {line.split()[0] for line in lines[1:3]} == {"projector", "acoustic_apt"}
    assert sum(say.TAGGING in line for line in lines) == 4
    assert lines[-1].startswith("next: pt-audio fit acoustic_apt")
    assert (tmp_path / "demo" / "compare.html").is_file()


@pytest.mark.slow
def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    page = (Path(__file__).parents[2] / "packages" / "pt-audio" / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "sounds" / "report.html").is_file()
