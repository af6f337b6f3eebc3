"""Segmentation as a user meets it: fit, eval, predict, budget, what is refused in one line, the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pt_core.testing.html import external_requests
from pt_vision.modality import Vision
from pt_vision.segmentation.demo import mask_runs, runs
from pt_vision.segmentation.pretrain import SegmenterConfig, pretrain_segmenter
from pt_vision.segmentation.task import decode_mask

from tests.command import good, pt_vision
from tests.vision.segmentation.common import CROP, LABELS, pictures
from tests.vision.segmentation.data.test_dataset import write

NEEDED = ("--task", "segmentation", "--head-width", "8", "--steps", "2", "--eval-every", "1", "--lr", "1e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """train, target (by condition, without masks), val and test below one folder."""
    root = tmp_path_factory.mktemp("data")
    for role, seed in (("train", 1), ("target", 2), ("val", 3), ("test", 4)):
        data = pictures(4, seed, dark=role != "train", side=80)
        for n, source in enumerate(data.sources):
            where = "" if role == "train" else f"{data.condition[n]}/"
            write(root / role, f"{where}{n}.png", source, None if role == "target" else data.masks.read(n))
    (root / "classes.txt").write_text("\n".join(LABELS) + "\n")
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("backbone") / "small.safetensors"
    config = SegmenterConfig((8, 8, 16, 16), (1, 1, 1, 1), (1, 1, 2, 2), 8, CROP, steps=2, batch_size=2)
    card = pretrain_segmenter(config, path, progress=False)
    assert json.loads(path.with_suffix(".json").read_text())["results"] == card["results"]
    return f"file:{path}"


@pytest.fixture(scope="module")
def run(folder, backbone, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "coda"
    said = good("fit", "coda", *NEEDED, "--data", folder, "--backbone", backbone, "--margin-bottom", "0", "--out", out)
    assert "test: miou" in said.out
    return out


def test_the_report_shows_masks_severity_and_conditions(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert external_requests(page) == []
    stored = json.loads((run / "report.json").read_text())["panels"]
    titles = [panel["title"] for panel in stored]
    for title in (
        "Confusion matrix (test)",
        "Per class (test)",
        "Severity of the target images",
        "Target images by severity",
        "Segmented test images",
        "Mean IoU per condition over the chain",
    ):
        assert title in titles
        assert title in page
    for panel in stored:
        if panel["title"] == "Segmented test images":
            assert len(panel["data"]["items"]) == 4 + 1  # and the colours of the classes
            assert all(item["picture"] for item in panel["data"]["items"])


def test_eval_and_predict(run, folder, tmp_path):
    said = good("eval", run, "--data", folder, "--role", "test")
    assert "miou/night" in said.out
    chosen = next((folder / "test/images/day").glob("*.png"))
    said = good("predict", run, chosen, "--json")
    record = json.loads(said.out)
    assert decode_mask(record["mask"]).shape == (80, 80)
    assert int(decode_mask(record["mask"]).max()) < len(LABELS)
    assert good("predict", run, chosen, "--out", tmp_path / "out.jsonl").out.count("%") >= 1
    assert np.isfinite(record["score"])


def test_a_run_of_masks_takes_pictures_in_memory(run):
    import pt_vision as package

    records = package.load(run).predict([np.zeros((70, 90, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)])
    assert [decode_mask(r["mask"]).shape for r in records] == [(70, 90), (64, 64)]


def refused(*arguments) -> str:
    outcome = pt_vision(*arguments)
    assert outcome.status == 2
    return " ".join(outcome.errors)


def test_mistakes_are_one_line(folder, backbone, tmp_path):
    out = ("--out", tmp_path / "x")
    said = refused("fit", "source_only", "--data", folder, "--backbone", backbone, *out)
    assert "these data are images with masks: add --task segmentation" in said
    said = refused("fit", "linear", "--data", folder, "--task", "segmentation", *out)
    assert "predicts one class per image; choose a method for masks (source_only" in said
    said = refused("fit", "coda", *NEEDED, "--data", "builtin:digits", "--backbone", backbone, *out)
    assert "target" in said or "needs a folder with images/ and masks/" in said
    said = refused("fit", "coda", *NEEDED, "--data", folder / "train", "--backbone", backbone, *out)
    assert "needs data role 'target'" in said
    said = refused("fit", "coda", *NEEDED, "--data", "nowhere", "--backbone", "mit:b0", "--threshold", "2", *out)
    for problem in ("'mit:b0' needs --weights FILE", "'nowhere' does not exist", "threshold='2'"):
        assert problem in said, problem  # with everything else, before the data are read
    said = refused("fit", "coda", *NEEDED, "--data", folder, "--backbone", "mit:b7", *out)
    assert "no MiT 'b7'" in said
    said = refused("fit", "coda", *NEEDED, "--data", folder, "--backbone", backbone, "--augment", "medical", *out)
    assert "augment='medical' is for classification" in said
    assert not (tmp_path / "x").exists()


def test_budget_counts_without_weights():
    said = good(
        "budget", "source_only", "--task", "segmentation", "--backbone", "mit:b0", "--crop-size", "128", "--no-hrda"
    )
    assert "parameters" in said.out
    said = good("budget", "dvpt_seg", "--task", "segmentation", "--backbone", "segformer:b0", "--crop-size", "128")
    assert "parameters" in said.out
    outcome = pt_vision("budget", "coda", "--task", "segmentation", "--backbone", "mit:b0", "--crop-size", "128")
    assert "several forward passes that are not counted" in " ".join(outcome.errors)


def test_the_demos_are_runs_that_fit_takes():
    from pt_core.run.declare.resolve import resolve

    for options in [*runs(False).values(), *runs(True).values(), *mask_runs(True).values()]:
        given = {key: (value,) if key == "data" else value for key, value in options.items() if key != "method"}
        assert resolve(Vision(), options["method"], given).task.task == "segmentation"
    assert [demo.name for demo in Vision().demos()] == ["digits", "coda", "masks"]
