"""Full fine-tuning: all weights of a copy train, the shared network does not move, and its own dropout is an option."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pt_core.run.declare.options import build_all
from pt_core.testing import BadInput
from pt_core.testing._support import train
from pt_vision.adapters import adapt
from pt_vision.methods.classification.full import FullConfig, FullFineTuning
from pt_vision.methods.classification.linear import LinearProbe
from timm.models.vision_transformer import VisionTransformer

from tests.vision.methods.classification.common import DATA, case, conformance, on_large, seeded_make, task, tiny
from tests.vision.nets import SIZE, randomise


def weights(name: str) -> int:
    return sum(parameter.numel() for parameter in tiny(name).module.parameters())


BAD = (
    BadInput("unknown pool", lambda: build_all({"config": FullConfig}, {"pool": "prompt"}), "pool='prompt'"),
    BadInput("no flag", lambda: build_all({"config": FullConfig}, {"stochastic": "perhaps"}), "stochastic='perhaps'"),
    BadInput("no class token", lambda: seeded_make(FullFineTuning, "no_class", pool="class")(DATA["val"].batch()), "no class"),
)  # fmt: skip
HEAD = 3 * 32 + 3
CASES = {
    "class": replace(case(FullFineTuning, "class", weights("class") + HEAD), bad_inputs=BAD),
    "mae": case(FullFineTuning, "mae", weights("mae") + HEAD),
    "swin": case(FullFineTuning, "swin_shifted", weights("swin_shifted") + HEAD),
}


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


def test_count_of_a_published_network():
    assert on_large(FullFineTuning, "vit_base_patch16_224", 10).parameter_count() == 85_798_656 + 7_690


@pytest.mark.parametrize("name", ["class", "mae", "siglip", "eva_rope", "swin_shifted"])
def test_starts_as_the_frozen_network_and_leaves_it_alone(name, tmp_path):
    method, probe, batch = seeded_make(FullFineTuning, name), seeded_make(LinearProbe, name), DATA["val"].batch()
    probe.head.load_state_dict(method.head.state_dict())
    before = probe(batch)
    torch.testing.assert_close(method(batch), before)
    train(case(FullFineTuning, name, 0), tmp_path / "run", method)
    assert (method(batch) - before).abs().max() > 1e-2
    probe.backbones = method.backbones
    assert torch.equal(probe(batch), before)


def test_pooling_weights_are_the_tuned_ones():
    method, batch = seeded_make(FullFineTuning, "mae"), DATA["val"].batch()
    before = method(batch)
    with torch.no_grad():
        method.claimed.tensors()["fc_norm.weight"].mul_(2)
    assert (method(batch) - before).abs().max() > 1e-2


@pytest.mark.parametrize("stochastic", [False, True])
def test_drop_path_runs_only_where_it_is_asked_for(stochastic):
    net = adapt(randomise(VisionTransformer(**SIZE, drop_path_rate=0.5)), "tiny:drops")
    method, batch = FullFineTuning(FullConfig(stochastic=stochastic), {"backbone": net}, task()), DATA["val"].batch()
    method.train()
    first, second = method(batch), method(batch)
    assert torch.equal(first, second) is not stochastic
    assert not net.module.training
    method.eval()
    assert torch.equal(method(batch), method(batch))


def test_a_half_precision_network_is_tuned_in_float32():
    method, batch = seeded_make(FullFineTuning), DATA["val"].batch()
    method.backbone.to("cpu", torch.bfloat16)
    method.training_step(batch).loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in method.parameters())
