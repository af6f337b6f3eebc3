"""The published settings as recipes: the values of the papers and their code, through the options of the method they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pt_core.run.declare.resolve import recipe_folder, resolve
from pt_vision.modality import Vision

from tests.command import good
from tests.vision.pictures import make_folder

PUBLISHED = {
    # Jia et al. 2022: SGD with momentum 0.9, lr x batch / 256, 100 epochs, 10 of warm-up stepped per epoch from 0, batch 128 for p < 100.
    "vpt-deep-official": {
        "mode": "deep", "prompt_dropout": 0.1, "optimizer": "sgd", "momentum": 0.9, "lr_per_256": True, "official_warmup": True,
        "epochs": 100, "warmup_epochs": 10, "batch_size": 128, "schedule": "cosine", "clip_norm": None,
    },
    "vpt-shallow-official": {
        "mode": "shallow", "prompt_dropout": 0.0, "optimizer": "sgd", "momentum": 0.9, "lr_per_256": True, "official_warmup": True,
        "epochs": 100, "warmup_epochs": 10, "batch_size": 128, "clip_norm": None,
    },
    # He et al. 2023, classification: AdamW, lr 5e-4, decay 1e-4, 60 epochs, 5 of warm-up, batch 50, gradient norm 1.
    "dvpt-medical": {
        "variant": "paper", "prompt_length": 50, "latent": 20, "group": 3, "optimizer": "adamw", "lr": 5e-4, "weight_decay": 1e-4,
        "epochs": 60, "warmup_epochs": 5, "batch_size": 50, "clip_norm": 1.0, "augment": "medical", "ordinal": True,
    },
    # Gong et al. 2024, first commit of the released code: 60,000 steps, batch 2 + 2, crops 1024, AdamW 6e-5, the chain's slices.
    "coda-official": {
        "steps": 60_000, "batch_size": 2, "crop_size": 1024, "optimizer": "adamw", "lr": 6e-5, "weight_decay": 0.01, "schedule": "linear",
        "chain_length": 12_000, "chain_cycle": 5200, "chain_easy": 1200, "prompt_size": 64, "official_gate": True, "classmix": "batch",
        "official_severity": True, "official_calls": True, "seed": 38, "threshold": 0.968, "teacher_momentum": 0.99,
    },
}  # fmt: skip


def test_every_recipe_has_its_published_values_and_names_its_method() -> None:
    folder = recipe_folder(Vision())
    assert {path.stem for path in folder.glob("*.yaml")} == set(PUBLISHED)
    for name, values in PUBLISHED.items():
        method = yaml.safe_load((folder / f"{name}.yaml").read_text())["method"]
        flat = resolve(Vision(), method, {"data": ("photos",)}, name).flat()
        assert {key: flat[key] for key in values} == values
        searched = {"vpt": {50, 25, 10, 5, 2.5, 1, 0.5, 0.25, 0.1, 0.05}, "dvpt": {5e-4}, "coda": {6e-5}}[method]
        assert flat["lr"] in searched, "a value of the published grid"


def test_the_medical_recipe_reports_kappa_and_selects_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "grades", {"": {"0": 8, "1": 8, "2": 8}})
    flags = ("--steps", "4", "--batch-size", "6", "--eval-every", "2", "--prompt-length", "4", "--val-fraction", "0.4")
    said = good("fit", "dvpt", "--data", "grades", "--recipe", "dvpt-medical", *flags, "--out", "run")
    status = json.loads(Path("run", "run.json").read_text())
    assert status["select"] == ["kappa", "max"]
    assert "kappa" in status["results"]["val"]
    seen = [json.loads(line) for line in Path("run", "metrics.jsonl").read_text().splitlines()]
    curve = [row["kappa"] for row in seen if row["split"] == "val" and row["stage"] == "train"]
    assert status["results"]["val"]["kappa"] == pytest.approx(max(curve))
    assert said.out.startswith("val: kappa ")
