"""The demonstration: its runs are valid, it prints what it promises, and what holds of prompts on its data over seeds."""

from __future__ import annotations

import statistics
from pathlib import Path

import pt_vision
import pytest
from pt_core.run.declare.resolve import resolve
from pt_core.testing.html import external_requests
from pt_vision.classification.demo import runs
from pt_vision.modality import Vision

from tests.command import good


@pytest.mark.parametrize("fast", [False, True])
def test_every_run_is_one_that_fit_would_take(fast: bool) -> None:
    found = runs(fast)
    assert list(found) == ["linear", "vpt-shallow", "vpt-deep", "dvpt", "full"]
    for options in found.values():
        given = {key: (value,) if key == "data" else value for key, value in options.items() if key != "method"}
        spec = resolve(Vision(), options["method"], given)
        assert spec.run.shots == 16
        assert spec.train.epochs <= (4 if fast else 40)


@pytest.mark.slow
def test_the_short_demo_prints_its_table_and_writes_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = good("demo", "--fast")
    head, *rows = said.out.splitlines()
    assert head.split() == ["method", "tuned", "parameters", "of", "backbone", "test", "accuracy", "seconds"]
    shown = {row.split()[0]: row.split()[1:] for row in rows[:5]}
    assert {name: values[0] for name, values in shown.items()} == {
        "linear": "1,610",
        "vpt-shallow": "3,210",
        "vpt-deep": "11,210",
        "dvpt": "17,962",
        "full": "1,891,370",
    }
    assert all(0.05 < float(values[2]) <= 1 for values in shown.values())
    folder = Path("runs", "demo-digits-1")
    for page in (folder / "compare.html", *folder.glob("*/seed-0/report.html")):
        assert external_requests(page.read_text(encoding="utf-8")) == [], page
    assert rows[-1].startswith("next: pt-vision fit vpt --data DIR --backbone timm:")
    assert "16 shots per class, test on 450 images" in said.err


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_direction_on_digits_over_three_seeds(tmp_path: Path) -> None:
    """On the small built-in backbone: every method is far above chance, deep prompts beat shallow ones, DVPT beats shallow prompts of equal
    length, full fine-tuning is best, and deep prompts come within three points of a linear probe. That prompts beat the probe, as on the
    paper's ViT-B, does not hold here (docs/results.md)."""
    backbone = pt_vision.load_backbone("builtin:vit_glyphs")
    means = {}
    for name, options in runs(fast=False).items():
        scores = []
        for seed in range(3):
            own = {**options, "seed": seed}
            method = own.pop("method")
            run = pt_vision.fit(method, backbone=backbone, out=tmp_path / f"{name}-{seed}", quiet=True, **own)
            scores.append(run.metrics["accuracy"])
        means[name] = statistics.mean(scores)
    assert min(means.values()) > 0.6
    assert means["full"] == max(means.values())
    assert means["vpt-deep"] > means["vpt-shallow"]
    assert means["dvpt"] > means["vpt-shallow"]
    assert means["vpt-deep"] > means["linear"] - 0.03
