"""Runs that start from earlier runs, and runs whose batches are cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pt_graph
import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import ArtifactError, UserError
from pt_graph.modality import Graph

from tests.command import typed
from tests.graph.methods.common import close, data, shapes

SHORT = {"epochs": 1, "device": "cpu", "quiet": True}


def pt(*words: object) -> str:
    """What `pt-graph WORDS` prints, and says."""
    done = typed(Graph, *words)
    assert done.status == 0, done.err[-2000:]
    return done.out + done.err


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with molecules, shapes of three classes and of two, and a network on their features."""
    folder = tmp_path_factory.mktemp("runs")
    whole = shapes(24, 1)
    two = whole.subset([row for row, label in enumerate(whole.labels or ()) if label != 2])
    pt_graph.save_graphs({"train": whole}, folder / "three.npz")
    pt_graph.save_graphs({"train": two.relabel(["ring", "path"])}, folder / "two.npz")
    pt_graph.save_graphs({**data("molecules"), "test": data("molecules")["val"]}, folder / "molecules.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PT_CACHE", str(folder / "cache"))
        flags = ("--epochs", 1, "--dim", 8, "--layers", 2, "--batch-size", 12, "--objective", "masked_edge")
        pt("pretrain", "--data", "three.npz", *flags, "--out", "net.safetensors")
        yield folder


def tuned(out: str) -> dict[str, torch.Tensor]:
    artifact = read_artifact(Path(out), training=True)
    return {**artifact.tensors, **(artifact.training or {})}


def fit(method: str, source: str, out: str, **options: Any) -> dict[str, torch.Tensor]:
    """What a short run on `source`.npz tuned; graphs of shapes need the network that was pretrained on them."""
    if source != "molecules":
        options.setdefault("backbone", "file:net.safetensors")
    pt_graph.fit(method, data=f"{source}.npz", out=out, **{**SHORT, **options})
    return tuned(out)


# ---- cut batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eval", "dropout"])
def test_the_demos_prompt_is_the_same_however_its_batches_are_cut(mode):
    """Default options, that is Adam; with the network's dropout too."""
    found = [
        fit("gpf", "molecules", f"{mode}-{parts}", accumulate=parts, epochs=6, frozen_mode=mode) for parts in (1, 2, 3)
    ]
    for name, want in found[0].items():
        for have in found[1:]:
            close(have[name], want)


# ---- earlier runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gpf", "gpf_plus", "supt", "all_in_one", "full"])
def test_a_run_on_other_classes_starts_from_what_was_tuned_with_a_fresh_head(method):
    before = fit(method, "three", f"{method}-three", steps=3)
    cold = fit(method, "two", f"{method}-cold", steps=1, lr=1e-12)
    warm = fit(method, "two", f"{method}-warm", steps=1, lr=1e-12, init_from=f"{method}-three")
    heads = [name for name in warm if name.startswith("head.")]
    assert len(heads) == 2
    for name, tensor in warm.items():
        close(tensor, cold[name] if name in heads else before[name], 1e-4)


def test_a_run_on_the_same_properties_keeps_its_head():
    before = fit("gpf", "molecules", "yes-no", steps=3)
    warm = fit("gpf", "molecules", "yes-no-on", steps=1, lr=1e-12, init_from="yes-no")
    for name, tensor in warm.items():
        close(tensor, before[name])


@pytest.mark.parametrize(
    ("method", "option", "sized"),
    [
        ("gpf_plus", "bases", {"prompt": 0, "attention.weight": 0, "attention.bias": 0}),
        ("supt", "bases", {"prompt": 0, "score.weight": 0, "bias": 0}),
        ("all_in_one", "tokens", {"tokens": 1}),
    ],
)
def test_more_vectors_keep_the_earlier_ones(method, option, sized):
    before = fit(method, "three", f"{method}-few", steps=3, **{option: 3})
    more = fit(method, "three", f"{method}-more", steps=1, lr=1e-12, init_from=f"{method}-few", **{option: 5})
    less = fit(method, "three", f"{method}-less", steps=1, lr=1e-12, init_from=f"{method}-few", **{option: 2})
    for name, axis in sized.items():
        close(more[name].narrow(axis, 0, 3), before[name], 1e-4)
        close(less[name], before[name].narrow(axis, 0, 2), 1e-4)


def test_prototypes_and_critics_are_made_anew():
    fit("graph_prompt", "three", "proto")
    warm = fit("graph_prompt", "two", "proto-on", init_from="proto", steps=1, lr=1e-12)
    assert warm["means"].shape == (2, 8)
    close(warm["prompt"], tuned("proto")["prompt"])
    how = {"critic": "flat", "minibatch": 24, "passes": 1, "ensemble": 1}
    fit("relief", "three", "relief", state_nodes=8, **how)
    warm = fit("relief", "two", "relief-on", init_from="relief", state_nodes=9, policy_lr=1e-12, **how)
    close(warm["members.0.discrete.0.weight"], tuned("relief")["members.0.discrete.0.weight"], 1e-4)
    assert warm["critic.layers.0.weight"].shape[1] == 9 * 8


def test_a_fully_tuned_network_is_a_backbone():
    """`--backbone run:RUN` from the command line, and predictions with it."""
    short = ("--data", "three.npz", "--epochs", 2, "--device", "cpu")
    pt("fit", "full", *short, "--lr", 0.01, "--backbone", "file:net.safetensors", "--out", "whole")
    assert f"on run:{Path('whole').absolute()}" in pt(
        "fit", "linear", *short, "--backbone", "run:whole", "--out", "on-whole"
    )
    card = read_artifact(Path("on-whole")).card
    assert card["backbones"]["backbone"]["source"] == f"run:{Path('whole').absolute()}"
    found = pt_graph.load("on-whole", device="cpu")
    full = pt_graph.load("whole", device="cpu").method
    graphs = shapes(6, 5).graphs
    for graph in graphs[:2]:
        with torch.no_grad():
            own = full.backbone.nodes(graph, weights=full.claimed)
            assert torch.equal(found.method.backbone.nodes(graph), own)
            assert not torch.equal(full.backbone.nodes(graph), own)
    records = [
        json.loads(line) for line in pt("predict", "on-whole", "three.npz", "--json").splitlines() if "{" in line
    ]
    assert len(records) == 24
    with pytest.raises(UserError, match="tuned no weights of its backbone"):
        fit("linear", "three", "nothing", backbone="run:on-whole")


def test_other_classes_of_a_tuned_head_are_refused():
    fit("gpf", "three", "named", steps=1)
    with pytest.raises(
        UserError, match=r"has a fixed label space: what it tuned belongs to its classes \(path, ring, star"
    ):
        pt_graph.load("named", class_names=["a", "b"])
    with pytest.raises(ArtifactError, match="of shape|do not fit"):
        fit("gpf", "three", "two-layers", init_from="named", head_layers=2)
