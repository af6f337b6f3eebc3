"""Point networks of equal tensors that compute something else are told apart, and an artifact refuses them saying so."""

from __future__ import annotations

from typing import Any

import pt_pointcloud
import pytest
import torch
from pt_core.errors import BackboneMismatch
from pt_pointcloud.networks.backbone import PointBackbone
from torch import nn
from torch.nn import functional as F

from tests.pointcloud.common import network, tiny


def changed(
    activation: Any = None, eps: float | None = None, batch_eps: float | None = None, **sizes: Any
) -> PointBackbone:
    """The tiny network with other functions, epsilons or sizes that no tensor shows."""
    net = network(**sizes)
    for part in net.modules():
        if eps is not None and isinstance(part, nn.LayerNorm):
            part.eps = eps
        if batch_eps is not None and isinstance(part, nn.BatchNorm1d):
            part.eps = batch_eps
        if activation is not None and type(part).__name__ == "Mlp":
            part.forward = lambda x, own=part: own.fc2(activation(own.fc1(x)))
    return PointBackbone(net, "tiny:0")


def published_class_token() -> PointBackbone:
    backbone = changed()
    backbone.module.class_token_trained = True
    return backbone


@pytest.mark.parametrize(
    "other",
    [
        lambda: changed(activation=F.relu),
        lambda: changed(activation=lambda x: x * torch.sigmoid(1.702 * x)),
        lambda: changed(eps=1e-2),
        lambda: changed(batch_eps=1e-2),
        lambda: changed(heads=4),
        published_class_token,
    ],
    ids=["relu", "quick", "eps", "batch_eps", "heads", "class"],
)
def test_equal_tensors_in_another_network_are_told_apart(other, tmp_path):
    first, second = changed(), other()
    assert first.fingerprint().exact == second.fingerprint().exact
    assert first.fingerprint().compare(second.fingerprint()) == "behaviour"
    assert changed().fingerprint().compare(first.fingerprint()) == "same"
    pt_pointcloud.wrap(first, "linear", classes=2).save(tmp_path / "tuned")
    assert pt_pointcloud.load(tmp_path / "tuned", backbone=changed(), device="cpu").notes == []
    with pytest.raises(BackboneMismatch, match="in another network: features of a fixed probe differ by"):
        pt_pointcloud.load(tmp_path / "tuned", backbone=second)


@pytest.mark.parametrize("sizes", [{"group_size": 5}, {"groups": 7}])
def test_another_grouping_is_another_network(sizes, tmp_path):
    assert changed().fingerprint().compare(changed(**sizes).fingerprint()) == "behaviour"
    pt_pointcloud.wrap(changed(), "linear", classes=2).save(tmp_path / "tuned")
    with pytest.raises(BackboneMismatch, match="allow"):
        pt_pointcloud.load(tmp_path / "tuned", backbone=changed(**sizes))


@pytest.mark.parametrize("class_token", [False, True])
def test_a_copy_in_another_precision_is_a_copy(class_token):
    for dtype in (torch.bfloat16, torch.float16):
        low = tiny(class_token=class_token).to("cpu", dtype)
        assert tiny(class_token=class_token).fingerprint().compare(low.fingerprint()) == "recast"


def test_the_built_in_network_is_itself_and_meta_ones_have_no_behaviour():
    state = torch.get_rng_state()
    one, other = (pt_pointcloud.load_backbone("builtin:point_mae_shapes").fingerprint() for _ in range(2))
    assert one.compare(other) == "same"
    assert len(one.behaviour or ()) == 64
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny().to("meta").behaviour() is None


def test_no_distance_decides_over_the_probes_patches():
    backbone = tiny()
    probe = backbone.probe()
    assert probe["centres"].unique().numel() == backbone.groups
    assert torch.equal(probe["neighbours"][:, :, 0], probe["centres"])
    assert all(len(set(rows)) == 6 for rows in probe["neighbours"][0].tolist())
    nudged = {**probe, "points": probe["points"] + 1e-6 * torch.randn(probe["points"].shape)}
    with torch.no_grad():
        a, b = backbone.probe_features(probe), backbone.probe_features(nudged)
    assert float((a - b).abs().max() / a.abs().max()) < 1e-4
