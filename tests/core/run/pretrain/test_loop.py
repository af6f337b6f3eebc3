"""The loop of `pretrain`: bit for bit what a loop written out does, and losses that must stay finite."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable

import pytest
import torch
from pt_core.data import generator
from pt_core.errors import NonFiniteError
from pt_core.run.pretrain.loop import decayed, descend, last_tenth, warm_cosine
from pt_core.run.pretrain.recipe import versions, write_recipe
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

STEPS = 12


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))


def loss_of(net: nn.Module) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        x = torch.randn(6, 5, generator=generator("loop", step))
        return (net(x) - x[:, :2]).square().mean()

    return loss


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_rate_of_ones_own_is_a_schedule_of_torch() -> None:
    net, other = network(), network()
    losses = descend(
        loss_of(net),
        torch.optim.AdamW(decayed(net.named_parameters(), 0.1), lr=0.01, betas=(0.9, 0.98)),
        STEPS,
        rate=lambda step: 0.01 * warm_cosine(step, STEPS, 3),
        clip=(net.parameters(), 0.5),
        title=None,
    )
    groups = [
        {"params": [p for p in other.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in other.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98))
    schedule = LambdaLR(
        optimiser, lambda k: (k + 1) / 4 if k < 3 else 0.5 * (1 + math.cos(math.pi * (k - 3) / (STEPS - 3)))
    )
    expected = []
    for step in range(STEPS):
        loss = loss_of(other)(step)
        expected.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimiser.step()
        schedule.step()
    assert losses == expected
    assert same(net, other)


def test_a_schedule_of_torch_is_stepped_behind_every_step() -> None:
    net, other = network(), network()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.02)
    schedule = OneCycleLR(optimiser, 0.02, STEPS, pct_start=0.1)
    told: list[tuple[int, int]] = []

    def after(done: int, losses: list[float]) -> None:
        schedule.step()
        told.append((done, len(losses)))

    descend(loss_of(net), optimiser, STEPS, after=after, title=None)
    assert told == [(n, n) for n in range(1, STEPS + 1)]
    optimiser = torch.optim.AdamW(other.parameters(), lr=0.02)
    schedule = OneCycleLR(optimiser, 0.02, STEPS, pct_start=0.1)
    for step in range(STEPS):
        optimiser.zero_grad()
        loss_of(other)(step).backward()
        optimiser.step()
        schedule.step()
    assert same(net, other)


def test_a_batch_with_nothing_to_learn_from_is_no_step() -> None:
    net, told = network(), []
    usual = loss_of(net)
    losses = descend(
        lambda step: usual(step) if step % 3 == 0 else None,
        torch.optim.SGD(net.parameters(), lr=0.1),
        STEPS,
        after=lambda done, _: told.append(done),
        title=None,
    )
    assert (len(losses), told) == (4, [1, 4, 7, 10])


def test_a_loss_that_is_not_finite_stops_by_name_before_the_step() -> None:
    net, before = network(), network()
    usual = loss_of(net)
    with pytest.raises(NonFiniteError, match="the loss became nan at step 0; lower lr=0.01"):
        descend(lambda step: usual(step) * math.nan, torch.optim.SGD(net.parameters(), lr=0.01), 3, title=None)
    assert same(net, before)


def test_learning_rate() -> None:
    rates = [warm_cosine(step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1
    assert rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert warm_cosine(0, 1, 1) == 0.5


def test_vectors_and_what_is_named_have_no_weight_decay() -> None:
    net = network()
    matrices, rest = decayed(net.named_parameters(), 0.3, {"3.weight"})
    assert matrices["params"][0] is net[0].weight
    assert (len(matrices["params"]), len(rest["params"])) == (1, 5)
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)


def test_the_last_tenth_has_at_least_one_step() -> None:
    assert last_tenth([4.0, 2.0]) == 2.0
    assert last_tenth([9.0] * 18 + [1.0, 3.0]) == 2.0


def test_a_recipe_names_versions(tmp_path) -> None:
    found = versions("torch", "numpy")
    assert list(found) == ["torch", "numpy", "python"]
    assert found["python"] == platform.python_version()
    write_recipe(tmp_path / "recipe.json", {"steps": 3, "versions": found})
    assert json.loads((tmp_path / "recipe.json").read_text())["versions"] == found
