"""Runs that start from earlier runs, and runs whose batches are cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pt_timeseries
import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import UserError
from pt_timeseries.adapters.files import write_backbone
from pt_timeseries.modality import TimeSeries
from torch import Tensor

from tests.command import typed
from tests.timeseries.common import LABELS, SIZES, close, tiny, waves

SHORT = {
    "steps": 2,
    "device": "cpu",
    "quiet": True,
    "target": "t",
    "target_shots": 2,
    "backbone": "file:net.safetensors",
}
DOMAINS = ["a", "b", "t"]


def pt(*words: object) -> str:
    """What `pt-timeseries WORDS` prints, and says."""
    done = typed(TimeSeries, *words)
    assert done.status == 0, done.err[-2000:]
    return done.out + done.err


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an encoder, and windows of two sources and a target: of three classes, of two, and with one source more."""
    folder = tmp_path_factory.mktemp("runs")
    for name, domains, classes in (("three", DOMAINS, 3), ("two", DOMAINS, 2), ("more", ["a", "b", "c", "t"], 3)):
        data = waves(domains, per_class=6)
        rows = [row for row, label in enumerate(data.labels or ()) if label < classes]
        arrays = {
            "x": data.values[rows].numpy(),
            "y": np.array([LABELS[(data.labels or ())[row]] for row in rows]),
            "domain": np.array([data.domains[row] for row in rows]),
        }
        np.savez(folder / f"{name}.npz", **arrays)
    write_backbone(tiny(), "patch", SIZES, {}, folder / "net.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PT_CACHE", str(folder / "cache"))
        yield folder


def tuned(out: str) -> dict[str, Tensor]:
    artifact = read_artifact(Path(out), training=True)
    return {**artifact.tensors, **(artifact.training or {})}


def fit(method: str, source: str, out: str, **options: Any) -> dict[str, Tensor]:
    pt_timeseries.fit(method, data=f"{source}.npz", out=out, **{**SHORT, **options})
    return tuned(out)


STILL = {"steps": 1, "lr": 1e-12}
"""A run that leaves what it starts from as it is."""


@pytest.mark.parametrize("method", ["common_prompt", "coral", "codats", "full"])
def test_a_run_is_the_same_however_its_batches_are_cut(method):
    """Default options for the prompt (POND, the demo's, declares that its information terms compare the samples of a batch). Where the
    encoder is tuned, the keys' biases have gradients of rounding only, which Adam makes steps of."""
    how = {} if method == "common_prompt" else {"optimizer": "sgd", "lr": 0.01}
    found = [fit(method, "three", f"{method}-{parts}", accumulate=parts, steps=5, **how) for parts in (1, 2, 3)]
    for name, want in found[0].items():
        for have in found[1:]:
            close(have[name], want)


def test_pond_takes_cut_batches_and_is_the_same_without_its_information_terms():
    assert all(tensor.isfinite().all() for tensor in fit("pond", "three", "pond-2", accumulate=2).values())
    off = {"fidelity_weight": 0.0, "discrimination_weight": 0.0, "batch_size": 7}
    found = [fit("pond", "three", f"pond-off-{parts}", accumulate=parts, steps=4, **off) for parts in (1, 2, 3)]
    for name, want in found[0].items():
        for have in found[1:]:
            close(have[name], want, 3e-5)


def test_steps_over_whole_batches_take_no_cuts():
    with pytest.raises(UserError, match="takes no --accumulate"):
        fit("pond", "three", "reptile", accumulate=2, meta="reptile")


@pytest.mark.parametrize("method", ["source_only", "common_prompt", "full", "coral", "codats", "pond"])
def test_a_run_on_other_classes_starts_from_what_was_tuned_with_a_fresh_head(method):
    before = fit(method, "three", f"{method}-three")
    how = {**STILL, **({"prompt_lr": 1e-12} if method in ("common_prompt", "pond") else {})}
    warm = fit(method, "two", f"{method}-warm", init_from=f"{method}-three", **how)
    assert warm["head.weight"].shape == (2, 12)
    kept = [n for n in warm if not n.startswith(("head.", "fidelity.label.", "chosen", "mix", "evidence_"))]
    assert kept or method == "source_only"
    for name in kept:
        close(warm[name], before[name], 1e-4)


@pytest.mark.parametrize("method", ["common_prompt", "pond"])
def test_a_longer_prompt_keeps_the_earlier_steps(method):
    how = {**STILL, "prompt_lr": 1e-12}
    before = fit(method, "three", f"{method}-8", prompt_length=8)
    more = fit(method, "three", f"{method}-12", prompt_length=12, init_from=f"{method}-8", **how)
    less = fit(method, "three", f"{method}-4", prompt_length=4, init_from=f"{method}-8", **how)
    close(more["common.series"][:, :8], before["common.series"], 1e-4)
    close(more["common.codes"][:2], before["common.codes"], 1e-4)
    close(less["common.series"], before["common.series"][:, :4], 1e-4)
    if method == "pond":
        assert more["evidence_deltas"].shape[-1] == 12


def test_the_classifier_of_other_domains_is_new():
    before = fit("codats", "three", "domains-3")
    warm = fit("codats", "more", "domains-4", init_from="domains-3", **STILL)
    assert before["critic.4.weight"].shape[0] == 3
    assert warm["critic.4.weight"].shape[0] == 4
    close(warm["claimed.position"], before["claimed.position"], 1e-4)


def test_a_fully_tuned_encoder_is_a_backbone():
    """`--backbone run:RUN` from the command line, and predictions with it."""
    short = ("--data", "three.npz", "--target", "t", "--target-shots", 2, "--device", "cpu", "--steps", 3)
    pt("fit", "full", *short, "--lr", 0.01, "--backbone", "file:net.safetensors", "--out", "whole")
    assert f"on run:{Path('whole').absolute()}" in pt(
        "fit", "source_only", *short, "--backbone", "run:whole", "--out", "on-whole"
    )
    card = read_artifact(Path("on-whole")).card
    assert card["backbones"]["backbone"]["source"] == f"run:{Path('whole').absolute()}"
    found, whole = (pt_timeseries.load(name, device="cpu").method for name in ("on-whole", "whole"))
    x = waves(["t"], seed=4).values
    with torch.no_grad():
        own = whole.backbone(x, weights=whole.claimed).tokens
        assert torch.equal(found.backbone(x).tokens, own)
        assert not torch.equal(whole.backbone(x).tokens, own)
    assert len(pt("predict", "on-whole", "three.npz", "--json").splitlines()) >= 54
    with pytest.raises(UserError, match="tuned no weights of its backbone"):
        fit("source_only", "three", "nothing", backbone="run:on-whole")


def test_other_classes_of_a_tuned_head_are_refused():
    fit("common_prompt", "three", "named")
    with pytest.raises(UserError, match=r"has a fixed label space: what it tuned belongs to its classes \(fast, slow"):
        pt_timeseries.load("named", class_names=["p", "q"])
