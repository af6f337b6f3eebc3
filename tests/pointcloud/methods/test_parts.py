"""The small pieces of the methods by hand: pooling of the probe, first values, prompt modules, longer prompts, cached tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_core.randomness import seeded
from pt_pointcloud.methods.full import FullFineTuning
from pt_pointcloud.methods.linear import LinearProbe
from pt_pointcloud.methods.vpt import VPT
from pt_pointcloud.networks.prompts import DGCNN, MaxToken, TransformerPrompt, build_prompt_module

from tests.pointcloud.common import batch_of, close, make, seeded_make


@pytest.mark.parametrize("pool", ["max_mean", "max", "mean", "class"])
def test_the_probe_reads_its_pool(pool: str) -> None:
    one, batch = make(LinearProbe, class_token=True, pool=pool), batch_of()
    features = one.backbone(batch.inputs)
    tokens = features.part("token")
    want = {
        "max": torch.stack([row.max(0).values for row in tokens]),
        "mean": torch.stack([row.sum(0) / len(row) for row in tokens]),
        "class": features.part("class").flatten(1),
    }
    want["max_mean"] = torch.cat([want["max"], want["mean"]], 1)
    close(one.frozen_part(batch), want[pool])
    close(one(batch), want[pool] @ one.head.weight.T + one.head.bias)


def test_class_tokens_start_small_where_the_network_has_none() -> None:
    with seeded(3, "init"):
        fresh: Any = make(FullFineTuning)
    net = fresh.backbone.module
    for name in ("cls_token", "cls_pos"):
        assert 0.01 < float(getattr(fresh.claimed, name).detach().std()) < 0.04
        assert not torch.equal(getattr(fresh.claimed, name), getattr(net, name))
    known: Any = make(FullFineTuning, class_token=True)
    for name in ("cls_token", "cls_pos"):
        assert torch.equal(getattr(known.claimed, name), getattr(known.backbone.module, name))


def test_everything_of_the_network_is_tuned_with_its_statistics() -> None:
    one: Any = make(FullFineTuning)
    assert len(list(one.claimed.buffers())) == len(list(one.backbone.module.buffers())) > 0
    batch = batch_of()
    one.eval()
    features = one.backbone(batch.inputs, weights=one.claimed, class_token=True)
    pooled = torch.stack(
        [
            torch.cat([c[0], t.max(0).values])
            for c, t in zip(features.part("class"), features.part("token"), strict=True)
        ]
    )
    close(one(batch), one.head(pooled))


def test_prompt_modules_by_name() -> None:
    torch.manual_seed(0)
    tokens, positions = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    one = build_prompt_module("transformer", 8, 3, 2)
    assert isinstance(one, TransformerPrompt)
    whole = one.train()(tokens, positions)
    close(whole, one.block(tokens + positions).max(1, keepdim=True).values)
    close(whole, one.eval()(tokens, positions))  # nothing is dropped on the way
    assert float((one(tokens, -positions) - whole).detach().abs().max()) > 1e-2
    assert isinstance(build_prompt_module("mlp", 8, 3, 2), MaxToken)
    counts = {name: len(build_prompt_module(name, 8, 3, 2).layers) for name in ("dgcnn", "dgcnn1", "dgcnn2")}
    assert counts == {"dgcnn": 3, "dgcnn1": 1, "dgcnn2": 2}
    assert DGCNN(8, 3, 2).fuse.conv.in_features == 16


def test_a_longer_vpt_keeps_what_the_shorter_one_learned() -> None:
    few, more = seeded_make(VPT, prompt_length=2), seeded_make(VPT, seed=1, prompt_length=4)
    for name in ("prompts", "positions"):
        own, earlier = dict(more.named_parameters())[name].detach(), dict(few.named_parameters())[name].detach()
        found = more.resized(name, earlier, own.shape)
        assert torch.equal(found, torch.cat([earlier, own[:, 2:]], 1))
    assert more.resized("head.0.weight", own, own.shape) is None


def test_cached_patches_stand_for_the_cloud() -> None:
    one, batch = seeded_make(VPT, prompt_length=2).eval(), batch_of()
    held = replace(batch, extra={**batch.extra, "frozen": one.frozen_part(batch)})
    with torch.no_grad():
        close(one(held), one(batch))
    assert one.frozen_part(batch).shape == (9, 8, 16 + 3)
    assert one.frozen_key() == "embedding"
    assert seeded_make(VPT, prompt_length=2, clip="published").frozen_key() is None


def test_the_last_block_alone_may_be_prompted() -> None:
    assert list(seeded_make(VPT, prompt_length=2, mode="last").edits()) == ["tokens[2]"]
    deep = seeded_make(VPT, prompt_length=2)
    assert list(deep.edits()) == [f"tokens[{n}]" for n in range(3)]
    close(deep.edits()["tokens[1]"].tokens, deep.prompts[1] + deep.positions[1])
