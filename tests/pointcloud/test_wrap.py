"""A method on a point network of one's own: a bare loop, saving, copies, precisions, and what it may be called with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pt_pointcloud
import pytest
import torch
from pt_core.errors import BackboneMismatch, DataError, UserError
from pt_pointcloud.networks.mae import PointMAE
from pt_pointcloud.networks.transformer import PointConfig
from torch import Tensor, nn
from torch.nn import functional as F

from tests.pointcloud.common import LABELS, SIZES, batch_of, bound, close, network, part_task

TRAIN, VAL = batch_of(bound(30, 1)), batch_of(bound(12, 2))
X, Y = TRAIN.inputs["points"], TRAIN.target


def wrapped(method: str, **options: Any) -> Any:
    return pt_pointcloud.wrap(network(), method, classes=LABELS, **options)


def accuracy(module: nn.Module) -> float:
    with torch.no_grad():
        return float((module.eval()(VAL.inputs["points"]).argmax(-1) == VAL.target).float().mean())


def frozen(module: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.method.backbone.module.state_dict().items()}


@pytest.mark.parametrize(("method", "options"), [("vpt", {"prompt_length": 3}), ("idpt", {"neighbours": 5})])
def test_a_bare_loop_trains_what_is_tuned_and_nothing_else(method, options, tmp_path: Path):
    module = wrapped(method, **options)
    before, start = frozen(module), accuracy(module)
    tuned = {name.split(".")[1] for name, _ in module.named_parameters()}
    assert tuned == ({"prompts", "positions", "own", "head"} if method == "vpt" else {"prompt_module", "own", "head"})
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    module.train()
    assert not module.method.backbone.module.training
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimiser.step()
    assert accuracy(module) > max(0.8, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen(module).items())
    module.save(tmp_path / "tuned", {"accuracy": accuracy(module)})
    again = pt_pointcloud.load(tmp_path / "tuned", backbone=network(), device="cpu")
    with torch.no_grad():
        assert torch.equal(again.module().eval()(X), module.eval()(X))
    assert len(again.predict(list(X[:2]))) == 2
    with pytest.raises(BackboneMismatch, match="was tuned on 'module:PointTransformer'"):
        pt_pointcloud.load(tmp_path / "tuned", backbone=network(5))


def test_copies_share_the_frozen_network():
    module = wrapped("vpt").eval()
    other = copy.deepcopy(module)
    assert other.method.backbone is module.method.backbone
    with torch.no_grad():
        assert torch.equal(other(X), module(X))
        other.method.prompts.add_(1)
        assert not torch.equal(other(X), module(X))


@pytest.mark.parametrize("method", ["linear", "vpt", "idpt", "full"])
def test_it_moves_as_one(method):
    options = {"neighbours": 5} if method == "idpt" else {}
    with torch.no_grad():
        want = wrapped(method, **options).eval()(X)
        assert want.shape == (30, 3)
        double = wrapped(method, **options).eval().double()
        parameters = [*double.parameters(), *double.method.backbone.module.parameters()]
        assert {p.dtype for p in parameters if p.is_floating_point()} == {torch.float64}
        close(double(X.double()).float(), want, 1e-3)
        low = wrapped(method, **options).eval().bfloat16()(X.bfloat16())
    assert low.dtype == torch.bfloat16
    close(low.float(), want, 0.3)


def test_parts_are_told_apart_by_a_wrapped_network_too():
    module = pt_pointcloud.wrap(network(), "idpt_seg", classes=part_task())
    category = VAL.target
    found = module(VAL.inputs["points"], category)
    assert module(points=VAL.inputs["points"], category=category).shape == found.shape
    assert found.shape == (12, 48, 6)
    target = torch.zeros(12, 48, dtype=torch.long)
    assert module(VAL.inputs["points"], category, labels=target)["loss"].requires_grad
    with pytest.raises(TypeError, match=r"takes points \(batch, point, 3\) and category \(batch,\)"):
        module(VAL.inputs["points"])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no adapter for a Linear; it takes its own PointTransformer and PointMAE"):
        pt_pointcloud.wrap(nn.Linear(2, 2), "linear", classes=2)
    with pytest.raises(DataError, match=r"reads points \(batch, point, 3\), not \(2, 48, 4\)"):
        wrapped("linear")(torch.zeros(2, 48, 4))
    with pytest.raises(UserError, match="needs one per cloud"):
        wrapped("linear_seg")
    with pytest.raises(TypeError, match="take one tensor of inputs"):
        wrapped("linear")(X, X)


def test_a_pretrained_autoencoder_gives_its_encoder():
    torch.manual_seed(0)
    mae = PointMAE(PointConfig(**SIZES), 1)
    assert pt_pointcloud.wrap(mae, "linear", classes=2).method.backbone.module is mae.net
