"""The baselines against their formulas, and the conformance suite over all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pt_core.run.data.features import FeatureDataset
from pt_core.testing import CHECKS, SLOW_CHECKS
from pt_core.testing._support import train
from pt_timeseries.methods.codats import Codats, Reversed
from pt_timeseries.methods.common_prompt import CommonPrompt
from pt_timeseries.methods.coral import DeepCoral, Gap, coral
from pt_timeseries.methods.full import FullOnShots
from pt_timeseries.methods.source_only import SourceOnly
from torch.nn import functional as F

from tests.timeseries.common import (
    CHANNELS,
    DATA,
    LABELS,
    OPTIONS,
    batch_of,
    case,
    close,
    make,
    moved,
    seeded_make,
    tiny,
)

HEAD = 12 * 3 + 3
ENCODER = sum(tensor.numel() for tensor in tiny().module.parameters())
CRITIC = 12 * 7 + 7 + 7 * 7 + 7 + 7 * 4 + 4

CASES = {
    "source_only": case(SourceOnly, HEAD),
    "common_prompt": case(CommonPrompt, CHANNELS * 8 + 2 * 12 + HEAD, prompt_length=8, adapt_epochs=1),
    "coral": case(DeepCoral, ENCODER + HEAD),
    "coral_frozen": case(DeepCoral, 12 * 12 + 12 + HEAD, encoder="frozen"),
    "codats": case(Codats, ENCODER + HEAD + CRITIC, hidden=7),
    "full": case(FullOnShots, ENCODER + HEAD),
}
QUICK = ("declarations", "parameter_count", "wrong_backbone", "independence", "cuts", "trains_on")


@pytest.mark.parametrize("check", QUICK)
@pytest.mark.parametrize("name", CASES)
def test_conformance(name, check, tmp_path):
    CHECKS[check](CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("check", [name for name in {**CHECKS, **SLOW_CHECKS} if name not in QUICK])
@pytest.mark.parametrize("name", CASES)
def test_conformance_of_processes_and_resumption(name, check, tmp_path):
    {**CHECKS, **SLOW_CHECKS}[check](CASES[name], tmp_path)


def test_source_only_starts_as_the_pretrained_classifier_and_reads_cached_features():
    backbone = tiny()
    method, batch = make(SourceOnly, backbone=backbone), batch_of(DATA["val"])
    plain = F.linear(backbone.module(batch.inputs).mean(1), backbone.head.weight, backbone.head.bias)
    close(method(batch), plain)
    features = FeatureDataset(DATA["val"], method.frozen_part(batch))
    rows = list(range(len(features)))
    cached = features.collate(rows, [features.sample(row, epoch=None, seed=0) for row in rows])
    assert cached.inputs is None
    close(method(cached), plain)


def test_a_head_takes_the_pretrained_rows_by_name():
    backbone = tiny()
    backbone.head = replace(backbone.head, classes=("fast", "still", "slow"))
    head = make(SourceOnly, backbone=backbone).head
    assert torch.equal(head.weight[LABELS.index("fast")], backbone.head.weight[0])
    backbone.head = replace(backbone.head, classes=("a", "b", "c"))
    fresh = make(SourceOnly, backbone=backbone).head
    assert not torch.equal(fresh.weight[0], backbone.head.weight[0])


def test_coral_is_its_formula():
    source, target = torch.randn(9, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)

    def covariance(x):
        ones = torch.ones(1, len(x), dtype=x.dtype)
        return (x.T @ x - (ones @ x).T @ (ones @ x) / len(x)) / (len(x) - 1)  # equations 2 and 3 of the paper

    want = (covariance(source) - covariance(target)).square().sum() / (4 * 4**2)
    close(coral(source, target), want, 1e-10)
    assert float(coral(source, source)) == 0


@pytest.mark.parametrize("align", ["features", "logits"])
def test_a_cut_batch_has_the_covariances_of_the_whole(align, tmp_path):
    """The gradient of every part adds up to that of autograd through the covariances of all rows."""
    rows = {"source": torch.randn(9, 4, dtype=torch.float64), "target": torch.randn(7, 4, dtype=torch.float64)}
    whole = {name: value.clone().requires_grad_() for name, value in rows.items()}
    want = coral(whole["source"], whole["target"])
    want.backward()
    parts = [{"source": rows["source"][:2], "target": rows["target"][:5]}, {"source": rows["source"][2:]}]
    parts.append({"target": rows["target"][5:]})
    ctx = SimpleNamespace(device="cpu", reduce=lambda values: values)
    gap = Gap.of(ctx, [{name: value.double() for name, value in part.items()} for part in parts], 4)
    close(gap.value, want)
    leaves = [{name: value.clone().requires_grad_() for name, value in part.items()} for part in parts]
    sum(gap.term(part) for part in leaves).backward()
    for name, value in whole.items():
        close(torch.cat([part[name].grad for part in leaves if name in part]), value.grad)
    one = case(DeepCoral, 0, align=align, weight=3.0)
    options = replace(OPTIONS, steps=3, batch_size=7, lr=0.01, optimizer="sgd", select=False)
    logs = []
    for count in (1, 3):
        train(replace(one, options=replace(options, accumulate=count)), tmp_path / f"{align}-{count}")
        lines = (tmp_path / f"{align}-{count}" / "metrics.jsonl").read_text().splitlines()
        logs.append([entry for entry in map(json.loads, lines) if entry["split"] == "train"][-1])
    for name in ("loss", "source", "shots", "coral", "grad_norm"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-4), name
    assert logs[0]["coral"] > 0


def test_coral_and_codats_bring_source_and_target_together(tmp_path):
    """The CORAL distance of unseen windows falls against training without the term."""
    found = {}
    for weight in (0.0, 100.0):
        one = case(DeepCoral, 0, weight=weight, use_shots=False)
        options = replace(OPTIONS, steps=40, lr=3e-3, optimizer="adam", batch_size=24, eval_every=40, select=False)
        method = train(replace(one, options=options), tmp_path / str(weight))
        with torch.no_grad():
            sides = [method.feature(batch_of(DATA[role])) for role in ("val", "unlabeled")]
        found[weight] = float(coral(*sides))
    assert found[100.0] < found[0.0]


def test_the_gradient_of_the_domain_classifier_is_reversed():
    x = torch.randn(3, 2, requires_grad=True)
    (3 * Reversed.apply(x, 0.5)).sum().backward()
    assert torch.equal(x.grad, torch.full((3, 2), -1.5))


def test_codats_knows_every_domain_and_dann_two():
    each, binary = make(Codats), make(Codats, discriminator="binary")
    source, target = batch_of(DATA["train"]), batch_of(DATA["unlabeled"])
    assert each.domain(source).unique().tolist() == [0, 1, 2]
    assert each.domain(target).unique().tolist() == [3]
    assert binary.domain(source).unique().tolist() == [0]
    assert binary.domain(target).unique().tolist() == [1]
    assert not any(name.startswith("critic") for name in each.export("predict"))


def test_an_encoder_in_train_mode_couples_the_rows_of_a_batch():
    from pt_timeseries.methods.pond import POND

    for cls in (FullOnShots, DeepCoral, Codats):
        assert not make(cls).coupled
        assert make(cls, stochastic=True).coupled
    assert make(POND, prompt_length=8).coupled
    off = {"prompt_length": 8, "fidelity_weight": 0, "discrimination_weight": 0}
    assert not make(POND, **off).coupled
    assert make(POND, meta="reptile", **off).coupled


def test_full_trains_on_the_shots_and_on_nothing_else():
    method = make(FullOnShots)
    (stage,) = method.stages(SimpleNamespace(options=OPTIONS, data=DATA))
    assert {stream.role for stream in stage.streams.values()} == {"shots"}
    assert not stage.select
    batch = batch_of(DATA["val"])
    close(method(batch), make(SourceOnly, backbone=method.backbone)(batch))


def test_the_common_prompt_is_shared_by_all_windows():
    method, batch = moved(seeded_make(CommonPrompt, prompt_length=8)), batch_of(DATA["val"])
    backbone = method.backbone
    tokens = backbone.module.patches(method.common.series[None]) + method.common.codes
    hidden = backbone.module.patches(batch.inputs) + backbone.module.position
    hidden = torch.cat([tokens.expand(len(batch), -1, -1), hidden], 1)
    for block in backbone.module.blocks:
        hidden = block(hidden)
    close(method(batch), method.head(backbone.module.norm(hidden).mean(1)))
