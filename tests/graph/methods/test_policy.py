"""RELIEF's networks by hand: how they start, what the critics read, and when the passes over a rollout stop."""

from __future__ import annotations

import math

import pytest
import torch
from pt_graph.relief.policy import FlatCritic, Policy, PooledCritic
from torch import nn

from tests.graph.methods.common import batch, close, seeded_make
from tests.graph.methods.test_whole_step import POLICY, RELIEF, moved
from tests.stepping import Stepping


def test_actors_start_orthogonal_and_small_at_the_end() -> None:
    torch.manual_seed(0)
    one = Policy(8, 6, 0.5)
    for actor in (one.discrete, one.continuous):
        layers = [layer for layer in actor if isinstance(layer, nn.Linear)]
        assert [type(layer) for layer in actor] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
        for layer in layers:
            gain = 0.01 if layer is layers[-1] else math.sqrt(2)
            rows, columns = layer.weight.shape
            gram = layer.weight @ layer.weight.T if rows <= columns else layer.weight.T @ layer.weight
            close(gram, gain**2 * torch.eye(min(rows, columns)), 1e-4)
            assert not layer.bias.any()
    assert [layer.out_features for layer in one.discrete if isinstance(layer, nn.Linear)] == [4, 2, 1]
    assert [layer.out_features for layer in one.continuous if isinstance(layer, nn.Linear)] == [4, 4, 6]
    assert float(one.mean(100 * torch.randn(50, 8)).detach().abs().max()) <= 0.5


def test_critics_read_every_graph_apart() -> None:
    torch.manual_seed(0)
    nodes, sizes = torch.randn(9, 4), torch.tensor([3, 1, 5])
    flat, pooled = FlatCritic(4, 6), PooledCritic(4)
    parts = nodes.split(sizes.tolist())
    padded = torch.stack([torch.cat([part.flatten(), torch.zeros(24 - part.numel())]) for part in parts])
    close(flat(nodes, sizes), flat.layers(padded)[:, 0])
    close(pooled(nodes, sizes), pooled.layers(torch.stack([part.mean(0) for part in parts]))[:, 0])
    assert [layer.out_features for layer in FlatCritic(20, 10).layers if isinstance(layer, nn.Linear)] == [10, 5, 1]
    assert [layer.out_features for layer in pooled.layers if isinstance(layer, nn.Linear)] == [4, 2, 1]
    with torch.random.fork_rng():
        first = FlatCritic(40, 50).layers[0]
    assert float(first.weight.detach().std()) == pytest.approx(math.sqrt(2) * math.sqrt(2 / (2000 + 100)), rel=0.05)


@pytest.mark.parametrize(("stop", "passes"), [({"kl_stop_d": 1e-12}, 1), ({"kl_stop_c": 1e-12}, 1), ({}, 3)])
def test_passes_stop_when_either_policy_moved(stop: dict[str, float], passes: int) -> None:
    """The very first minibatch has not moved at all: only the mean over several of a pass says that it did."""
    method = moved(
        seeded_make(RELIEF, "molecules", **{**POLICY, "passes": 3, "minibatch": 5, "ensemble": 1, **stop}), 0.2
    ).train()
    whole = batch("molecules", 1, 2, 3, 4, role="train")
    ctx = Stepping(
        method, [{"train": whole}], {"member0": (("members.0.*", "critic.*"), 0.5), "head": (("head.*",), 0.0)}
    )
    method.epoch(ctx, whole, [[0, 1, 2, 3]])
    sizes = whole.inputs.sizes.tolist()
    order = torch.randperm(4, generator=ctx.rng("share", 0)).tolist()
    minibatches = [sum(sizes[row] for row in order[start : start + 2]) // 5 for start in (0, 2)]
    assert min(minibatches) > 1
    assert [name for name, _ in ctx.updates].count("member0") == passes * sum(minibatches)
