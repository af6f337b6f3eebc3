"""Runs that start from earlier runs, runs whose batches are cut, and votes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pt_pointcloud
import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import ConfigError, UserError
from pt_core.weights import FORMAT_VERSION
from pt_pointcloud.modality import PointClouds
from pt_pointcloud.networks.saved import save_backbone
from torch import Tensor

from tests.command import typed
from tests.pointcloud.common import LABELS, batch_of, bound, close, clouds, network

SHORT = {
    "steps": 2,
    "batch_size": 10,
    "warmup_epochs": 0,
    "device": "cpu",
    "quiet": True,
    "backbone": "file:net.safetensors",
}
STILL = {"steps": 1, "lr": 1e-12}
"""A run that leaves what it starts from as it is."""


def pt(*words: object) -> str:
    """What `pt-pointcloud WORDS` prints, and says."""
    done = typed(PointClouds, *words)
    assert done.status == 0, done.err[-2000:]
    return done.out + done.err


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a network, and clouds of three classes and of two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, kept in (("three", 3), ("two", 2)):
        for role, size, seed in (("train", 30, 1), ("test", 9, 2)):
            made = clouds(size, seed)
            rows = [row for row, label in enumerate(made.labels or ()) if label < kept]
            arrays = {
                "points": np.stack([made.clouds[row] for row in rows]),
                "y": np.array([(made.labels or ())[row] for row in rows]),
                "parts": np.stack([(made.parts or ())[row] for row in rows]),
                "classes": np.array(LABELS[:kept]),
                "part_names": np.array(made.part_names[: 2 * kept]),
            }
            (folder / name).mkdir(exist_ok=True)
            np.savez(folder / name / f"{role}.npz", **arrays)
    net = network()
    save_backbone(net, {"format_version": FORMAT_VERSION, "model": asdict(net.config)}, folder / "net.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PT_CACHE", str(folder / "cache"))
        yield folder


def tuned(out: str) -> dict[str, Tensor]:
    artifact = read_artifact(Path(out), training=True)
    return {**artifact.tensors, **(artifact.training or {})}


def fit(method: str, source: str, out: str, **options: Any) -> dict[str, Tensor]:
    pt_pointcloud.fit(method, data=source, out=out, **{**SHORT, **options})
    return tuned(out)


@pytest.mark.parametrize("augment", ["none", "scale_translate"])
def test_a_probe_is_the_same_however_its_batches_are_cut(augment):
    """Default options (AdamW). Prompts and full fine-tuning declare that BatchNorm in the head couples the clouds of a batch."""
    how = {"steps": 5, "augment": augment}
    found = [fit("linear", "three", f"{augment}-{parts}", accumulate=parts, **how) for parts in (1, 2, 3)]
    for name, want in found[0].items():
        for have in found[1:]:
            close(have[name], want)


@pytest.mark.parametrize(
    ("method", "options"), [("vpt", {}), ("idpt", {"neighbours": 5}), ("full", {}), ("linear", {})]
)
def test_a_run_on_other_classes_starts_from_what_was_tuned_with_a_fresh_head(method, options):
    before = fit(method, "three", f"{method}-three", **options)
    cold = fit(method, "two", f"{method}-cold", **options, **STILL)
    warm = fit(method, "two", f"{method}-warm", init_from=f"{method}-three", **options, **STILL)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, tensor in warm.items():
        if not name.endswith(statistics):
            close(tensor, cold[name] if name.startswith("head.") else before[name], 1e-4)


def test_more_prompts_keep_the_earlier_ones():
    before = fit("vpt", "three", "few", prompt_length=3)
    more = fit("vpt", "three", "more", prompt_length=5, init_from="few", **STILL)
    less = fit("vpt", "three", "less", prompt_length=2, init_from="few", **STILL)
    for name in ("prompts", "positions"):
        close(more[name][:, :3], before[name], 1e-4)
        close(less[name], before[name][:, :2], 1e-4)


def test_parts_of_other_categories_get_a_fresh_head():
    before = fit("idpt_seg", "three", "parts-three", task="parts")
    warm = fit("idpt_seg", "two", "parts-warm", task="parts", init_from="parts-three", **STILL)
    close(warm["prompt_position"], before["prompt_position"], 1e-4)
    assert warm["label.0.weight"].shape[1] == 2
    assert warm["head.6.weight"].shape[0] == 4
    kept = fit("idpt_seg", "three", "parts-on", task="parts", init_from="parts-three", **STILL)
    close(kept["head.6.weight"], before["head.6.weight"], 1e-4)


@pytest.mark.parametrize(("method", "options"), [("linear", {}), ("vpt", {}), ("idpt", {"neighbours": 5})])
def test_votes_over_clouds_that_are_not_augmented(method, options):
    """Several views of an evaluated cloud have no features of their own in the cache."""
    how = {"votes": 3, "augment": "none", **options}
    run = pt_pointcloud.fit(method, data="three", out=f"{method}-votes", **{**SHORT, **how})
    assert set(run.info["results"]) >= {"val", "test"}
    data = bound(9, 2, votes=3)
    tuned_method = pt_pointcloud.load(f"{method}-votes", device="cpu").method
    batch = batch_of(data)
    assert batch.inputs["points"].shape == (9, 3, 48, 3)
    with torch.no_grad():
        votes = torch.stack([tuned_method.backbone(batch.inputs["points"][:, n]).tokens for n in range(3)])
    assert (votes[0] - votes[1]).abs().max() > 1e-3
    assert data.augmented
    assert not bound(9, 2).augmented


def test_votes_over_parts_are_refused():
    with pytest.raises(ConfigError, match="votes averages logits of whole clouds"):
        fit("linear_seg", "three", "part-votes", task="parts", votes=2)


def test_a_fully_tuned_network_is_a_backbone():
    """`--backbone run:RUN` from the command line, with the class token that was tuned, and predictions with it."""
    short = ("--data", "three", "--device", "cpu", "--steps", 3, "--batch-size", 10, "--warmup-epochs", 0)
    pt("fit", "full", *short, "--lr", 0.01, "--backbone", "file:net.safetensors", "--out", "whole")
    said = pt("fit", "linear", *short, "--pool", "class", "--backbone", "run:whole", "--out", "on-whole")
    source = f"run:{Path('whole').absolute()}"
    assert f"on {source}" in said
    assert read_artifact(Path("on-whole")).card["backbones"]["backbone"]["source"] == source
    found, whole = (pt_pointcloud.load(name, device="cpu").method for name in ("on-whole", "whole"))
    points = batch_of(bound(4, 7)).inputs
    with torch.no_grad():
        own = whole.backbone(points, weights=whole.claimed, class_token=True).tokens
        assert torch.equal(found.backbone(points).tokens, own)
        assert not torch.equal(whole.backbone(points, class_token=True).tokens, own)
    np.save("cloud.npy", clouds(1, 5).clouds[0])
    (record,) = [
        json.loads(line) for line in pt("predict", "on-whole", "cloud.npy", "--json").splitlines() if "{" in line
    ]
    assert record["predicted"] in LABELS
    with pytest.raises(UserError, match="tuned no weights of its backbone"):
        fit("linear", "three", "nothing", backbone="run:on-whole")


def test_other_classes_of_a_tuned_head_are_refused():
    fit("vpt", "three", "named")
    with pytest.raises(UserError, match=r"has a fixed label space: what it tuned belongs to its classes \(ball, rod"):
        pt_pointcloud.load("named", class_names=["p", "q"])
