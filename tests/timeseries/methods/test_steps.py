"""The first step of POND, and losses in the log: they are those that were optimised."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_timeseries.methods.codats import Codats
from pt_timeseries.methods.coral import DeepCoral, coral
from pt_timeseries.methods.pond import POND
from pt_timeseries.pond.fidelity import SHORTEST, Fidelity
from pt_timeseries.pond.information import infonce, slow_infonce
from torch import Tensor
from torch.nn import functional as F

from tests.timeseries.common import DATA, SOURCES, batch_of, close, make, moved, seeded_make

SMALL: dict[str, Any] = {"prompt_length": 8, "hidden": 6, "critic_dim": 5}


def sources(count: int = 6) -> dict[str, Batch]:
    found = {}
    for i, name in enumerate(SOURCES):
        rows = [row for row, owner in enumerate(DATA["train"].domains) if owner == name]
        found[f"source-{i}"] = batch_of(DATA["train"], *rows[:count])
    return found


class Context(SimpleNamespace):
    """A step over one micro-batch in one process."""

    def __init__(self, batches: dict[str, Batch], **more: Any) -> None:
        super().__init__(parts=[batches], device=torch.device("cpu"), loss=[], step=3, steps=10, pairs=0, **more)

    def rng(self, *key: Any) -> torch.Generator:
        return torch.Generator().manual_seed(len(key))

    def reduce(self, values: Tensor) -> Tensor:
        return values

    def each_part(self, fn: Any) -> list[Any]:
        return [fn(part) for part in self.parts]

    def backward(self, loss: Tensor, count: int) -> None:
        self.loss.append((float(loss.detach()), count))
        (loss * count).backward()

    def update(self, *names: Any, **options: Any) -> None:
        pass


# ---- the first step --------------------------------------------------------------------------------------------------------


def norms(**options: Any) -> Tensor:
    """(parameter,) gradient norms of the generators at the first step, where every dP is 0."""
    method = seeded_make(POND, **SMALL, **options)
    batches = sources()
    objective, _ = method.objectives({i: batches[f"source-{i}"] for i in range(3)}, torch.Generator())
    torch.stack(list(objective.values())).mean().backward()
    return torch.stack([p.grad.norm() for name, p in method.named_parameters() if name.startswith("generators.")])


def test_the_first_step_is_of_the_size_of_the_classification():
    plain = norms(fidelity_weight=0, discrimination_weight=0).norm()
    whole = norms().norm()  # 4e10 where a cosine is taken of dP = 0
    assert float(plain) > 1e-3
    assert float(whole) < 5 * float(plain)


def test_the_target_starts_alike():
    method = seeded_make(POND, **SMALL)
    loss, logs = method.target_loss(batch_of(DATA["shots"]))
    loss.backward()
    grads = [p.grad.norm() for p in method.target_generator.parameters()]
    assert float(torch.stack(grads).norm()) < 10
    assert float(logs["fidelity"].detach()) == pytest.approx(0, abs=1e-6)


def test_the_gradient_at_zero_is_the_slope_of_the_estimate():
    torch.manual_seed(0)
    critic = Fidelity(6, 4, 3, 5, 0.1).double()
    delta = torch.zeros(7, 2, 3, dtype=torch.float64, requires_grad=True)
    feature, target = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 3
    critic(delta, feature, target).backward()
    way = torch.randn(7, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        step = 1e-5
        slope = (critic(step * way, feature, target) - critic(-step * way, feature, target)) / (2 * step)
    close((delta.grad * way).sum(), slope, 1e-5)
    assert float(slope.abs()) > 1e-3  # the term does say where to go


def test_a_floor_keeps_the_estimate_a_bound():
    torch.manual_seed(1)
    u, v = 0.05 * torch.randn(8, 5), torch.randn(8, 5)
    close(infonce(u, v, 0.1, 0.5), slow_infonce(u, v, 0.1, 0.5))
    close(infonce(50 * u, v, 0.1, 0.5), slow_infonce(u, v, 0.1))  # above the floor it is the cosine
    assert float(infonce(v, v, 0.01, 0.5)) <= torch.tensor(8.0).log() + 1e-6
    assert SHORTEST > 1e-3


# ---- the log ---------------------------------------------------------------------------------------------------------------


def test_pond_logs_the_loss_it_takes_the_gradient_of():
    method = moved(seeded_make(POND, fidelity_weight=0.3, discrimination_weight=0.7, **SMALL), scale=0.1)
    batches = {**sources(), "target": batch_of(DATA["shots"])}
    ctx = Context(batches)
    logs = method.joint_step(ctx)
    objective, _ = method.objectives({i: batches[f"source-{i}"] for i in range(3)}, ctx.rng("pairs"))
    delta = method.target_generator(batches["target"].inputs)
    feature = method.feature(batches["target"].inputs, method.common.series + delta)
    target = F.cross_entropy(method.head(feature), batches["target"].target)
    target = target - 0.3 * method.fidelity(delta, feature, batches["target"].target)
    close(logs["loss"], torch.stack(list(objective.values())).mean() + target / 3)
    close(logs["loss"], logs["ce"] - 0.3 * logs["fidelity"] + 0.7 * logs["distinction"] + target / 3)


def test_the_meta_step_logs_the_mean_of_its_inner_steps():
    options = {
        "meta": "reptile",
        "inner_steps": 2,
        "inner_optimizer": "sgd",
        "prompt_lr": 1e-12,
        "fidelity_weight": 0.3,
    }
    method = moved(seeded_make(POND, **SMALL, **options), scale=0.1)
    batches = sources(6)
    logs = method.meta_step(Context(batches), batches)
    want = []
    for half in (slice(0, 3), slice(3, 6)):
        parts = {i: batch_of(DATA["train"], *batches[f"source-{i}"].index[half].tolist()) for i in range(3)}
        objective, _ = method.objectives(parts, torch.Generator().manual_seed(2))
        want.append(torch.stack(list(objective.values())).mean())
    close(torch.as_tensor(logs["loss"]), sum(want) / 2, 1e-4)
    close(logs["loss"], logs["ce"] - 0.3 * logs["fidelity"] + 0.1 * logs["distinction"], 1e-4)


def test_codats_logs_the_mean_over_all_samples():
    method = moved(seeded_make(Codats), scale=0.1)
    batches = {
        "source": batch_of(DATA["train"], 0, 1, 2, 14, 30),
        "target": batch_of(DATA["unlabeled"], 0, 1),
        "shots": batch_of(DATA["shots"], 0, 1, 2),
    }
    ctx = Context(batches)
    logs = method.adapt(ctx)
    total = 0.0
    for name, batch in batches.items():
        feature = method.feature(batch)
        loss = F.cross_entropy(method.critic(feature), method.domain(batch))
        loss = loss + F.cross_entropy(method.head(feature), batch.target) if name != "target" else loss
        total += len(batch) * float(loss.detach())
    assert float(logs["loss"]) == pytest.approx(total / 10, rel=1e-5)
    assert float(logs["loss"]) == pytest.approx(sum(loss * n for loss, n in ctx.loss) / 10, rel=1e-5)


def test_coral_logs_the_loss_it_takes_the_gradient_of():
    method = make(DeepCoral, weight=3.0)
    batches = {
        "source": batch_of(DATA["train"]),
        "target": batch_of(DATA["unlabeled"]),
        "shots": batch_of(DATA["shots"]),
    }
    ctx = Context(batches)
    logs = method.adapt(ctx)
    features = {name: method.feature(batch) for name, batch in batches.items()}
    want = sum(F.cross_entropy(method.head(features[name]), batches[name].target) for name in ("source", "shots"))
    want = want + 3 * coral(features["source"], features["target"])
    close(torch.as_tensor(logs["loss"]), want.detach())
    assert ctx.loss[0][0] == pytest.approx(float(want.detach()), rel=1e-5)
