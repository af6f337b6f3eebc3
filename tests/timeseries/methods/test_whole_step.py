"""A whole step of every method with one of its own against a loop written by hand: losses, gradients, what the log says.

Networks, generators and the choice of pairs are the methods' own (they have tests of their own); everything between is written out here.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_timeseries.methods.codats import Codats
from pt_timeseries.methods.coral import DeepCoral
from pt_timeseries.methods.pond import POND
from pt_timeseries.pond.information import pair_by_class
from torch import Tensor
from torch.nn import functional as F

from tests.stepping import Stepping, gradients_of, same_gradients
from tests.timeseries.common import DATA, batch_of, close, moved, seeded_make

SMALL: dict[str, Any] = {"prompt_length": 8, "hidden": 6, "critic_dim": 5}
ROWS = {"source": (0, 1, 2, 14, 27), "target": (0, 1, 2, 3), "shots": (0, 1, 2)}
ROLES = {"source": "train", "target": "unlabeled", "shots": "shots"}


def cut(rows: dict[str, tuple[int, ...]], roles: dict[str, str], at: int | None) -> list[dict[str, Batch]]:
    """One micro-batch, or two of unequal sizes."""
    halves = [slice(None)] if at is None else [slice(0, at), slice(at, None)]
    return [{n: batch_of(DATA[roles[n]], *r[half]) for n, r in rows.items() if r[half]} for half in halves]


def nll(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p[y], row by row."""
    rows = [logits[n].logsumexp(0) - logits[n, int(y)] for n, y in enumerate(target)]
    return torch.stack(rows).mean()


# ---- CoDATS -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, 3])
@pytest.mark.parametrize("discriminator", ["each", "binary"])
def test_a_step_of_codats(discriminator: str, at: int | None) -> None:
    method = moved(seeded_make(Codats, discriminator=discriminator, weight=0.7), scale=0.1)
    ctx = Stepping(method, cut(ROWS, ROLES, at), step=3, steps=10)
    domains = {"source": [0, 0, 0, 1, 2], "target": [3] * 4, "shots": [3] * 3}  # a, a, a, b, c and the target
    if discriminator == "binary":
        domains = {"source": [0] * 5, "target": [1] * 4, "shots": [1] * 3}
    assert method.critic[-1].out_features == (4 if discriminator == "each" else 2)
    total, classify, tell = 12, torch.zeros(()), torch.zeros(())
    want: dict[str, Tensor] = {}
    for name, batch in cut(ROWS, ROLES, None)[0].items():
        feature = method.feature(batch)
        want[f"{name}/domain"] = nll(method.critic(feature), torch.tensor(domains[name]))
        tell = tell + len(batch) / total * want[f"{name}/domain"]
        if name != "target":
            want[f"{name}/ce"] = nll(method.head(feature), batch.target)
            classify = classify + len(batch) / total * want[f"{name}/ce"]
    reverse = 0.7 * (1 - math.exp(-3)) / (1 + math.exp(-3))  # 2 / (1 + exp(-10 p)) - 1 at p = 0.3
    gradients = {**gradients_of(method, classify - reverse * tell), **gradients_of(method, tell, "critic.*")}
    logs = method.adapt(ctx)
    assert set(logs) == {"loss", *want}
    close(torch.as_tensor(logs["loss"]), (classify + tell).detach())
    for name, value in want.items():
        close(torch.as_tensor(logs[name]), value.detach())
    ((optimiser, taken),) = ctx.updates
    assert optimiser == "main"
    same_gradients(taken, gradients)
    assert float(taken["critic.0.weight"].abs().max()) > 0


def test_the_reversed_gradient_starts_at_zero_and_ends_at_its_weight() -> None:
    method = moved(seeded_make(Codats, weight=0.7), scale=0.1)
    parts = cut(ROWS, ROLES, None)
    feature = {name: method.feature(batch) for name, batch in parts[0].items()}
    classify = sum(len(b) / 12 * nll(method.head(feature[n]), b.target) for n, b in parts[0].items() if n != "target")
    tell = sum(len(b) / 12 * nll(method.critic(feature[n]), method.domain(b)) for n, b in parts[0].items())
    for step, share in ((0, 0.0), (10, (1 - math.exp(-10)) / (1 + math.exp(-10)))):
        ctx = Stepping(method, parts, step=step, steps=10)
        method.adapt(ctx)
        want = {**gradients_of(method, classify - 0.7 * share * tell), **gradients_of(method, tell, "critic.*")}
        same_gradients(ctx.updates[0][1], want)


# ---- CORAL ------------------------------------------------------------------------------------------------------------------


def covariance(rows: Tensor) -> Tensor:
    """(d, d), entry by entry."""
    count, dim = rows.shape
    mean = [sum(rows[n, i] for n in range(count)) / count for i in range(dim)]
    return torch.stack(
        [
            torch.stack(
                [
                    sum((rows[n, i] - mean[i]) * (rows[n, j] - mean[j]) for n in range(count)) / (count - 1)
                    for j in range(dim)
                ]
            )
            for i in range(dim)
        ]
    )


@pytest.mark.parametrize("at", [None, 2])
@pytest.mark.parametrize("align", ["features", "logits"])
@pytest.mark.parametrize("encoder", ["tuned", "frozen"])
def test_a_step_of_coral(encoder: str, align: str, at: int | None) -> None:
    method = moved(seeded_make(DeepCoral, encoder=encoder, align=align, weight=3.0), scale=0.1)
    ctx = Stepping(method, cut(ROWS, ROLES, at))
    whole = cut(ROWS, ROLES, None)[0]
    features = {name: method.feature(batch) for name, batch in whole.items()}
    losses = {name: nll(method.head(features[name]), whole[name].target) for name in ("source", "shots")}
    sides = {
        name: method.head(features[name]) if align == "logits" else features[name] for name in ("source", "target")
    }
    dim = 3 if align == "logits" else 12
    gap = covariance(sides["source"]) - covariance(sides["target"])
    losses["coral"] = sum((gap[i, j] ** 2 for i in range(dim) for j in range(dim)), torch.zeros(())) / (4 * dim * dim)
    total = losses["source"] + losses["shots"] + 3.0 * losses["coral"]
    gradients = gradients_of(method, total)
    logs = method.adapt(ctx)
    assert set(logs) == {"loss", "source", "shots", "coral"}
    for name, value in {**losses, "loss": total}.items():
        close(torch.as_tensor(logs[name]), value.detach())
    ((_, taken),) = ctx.updates
    same_gradients(taken, gradients)
    assert float(losses["coral"].detach()) > 1e-3, "or the test says nothing"


def test_a_single_row_of_a_side_has_no_covariance_and_no_coral_term() -> None:
    method = moved(seeded_make(DeepCoral, weight=3.0), scale=0.1)
    ctx = Stepping(method, cut({**ROWS, "target": (0,)}, ROLES, None))
    whole = ctx.parts[0]
    total = sum(nll(method(whole[name]), whole[name].target) for name in ("source", "shots"))
    want = gradients_of(method, total)
    logs = method.adapt(ctx)
    close(torch.as_tensor(logs["loss"]), total.detach())
    assert float(logs["coral"]) == 0
    same_gradients(ctx.updates[0][1], want)


def test_two_rows_of_a_side_have_a_coral_term() -> None:
    method = moved(seeded_make(DeepCoral, weight=3.0), scale=0.1)
    ctx = Stepping(method, cut({**ROWS, "target": (0, 1)}, ROLES, None))
    whole = ctx.parts[0]
    gap = covariance(method.feature(whole["source"])) - covariance(method.feature(whole["target"]))
    assert float(method.adapt(ctx)["coral"]) == pytest.approx(float(gap.square().sum().detach()) / (4 * 144), rel=1e-5)


# ---- POND -------------------------------------------------------------------------------------------------------------------

SOURCES = {"source-0": (0, 1, 2, 3, 4, 5), "source-1": (12, 13, 14, 15, 16), "source-2": (24, 25, 26, 27, 28, 29)}
POND_ROLES = {**dict.fromkeys(SOURCES, "train"), "target": "shots"}
LAM1, LAM2, TAU = 0.3, 0.7, 0.2


def infonce(u: Tensor, v: Tensor) -> Tensor:
    """(1/K) sum_j log( e^{s_jj} / mean_k e^{s_jk} ); a u shorter than 0.1 is divided by 0.1."""
    count, total = len(u), torch.zeros(())
    for j in range(count):
        scores = [(u[j] @ v[k]) / u[j].norm().clamp(min=0.1) / v[k].norm() / TAU for k in range(count)]
        total = total + scores[j] - (sum(s.exp() for s in scores) / count).log()
    return total / count


def leave_one_out(a: Tensor, b: Tensor) -> Tensor:
    """(1/K) sum_j [ log q(a_j|b_j) - log mean_{k != j} q(a_j|b_k) ] under a Gaussian as wide as the median distance."""
    count = len(a)
    squares = [[(a[j] - b[k]).square().sum() for k in range(count)] for j in range(count)]
    width = sorted(float(s.detach()) for row in squares for s in row)[(count * count - 1) // 2]
    log_q, total = [[-s / (2 * width) for s in row] for row in squares], torch.zeros(())
    for j in range(count):
        total = total + log_q[j][j] - (sum(log_q[j][k].exp() for k in range(count) if k != j) / (count - 1)).log()
    return total / count


def informed(method: Any, delta: Tensor, feature: Tensor, target: Tensor | None) -> Tensor:
    """The fidelity of dP: the critic's projections are linear, the feature is a constant."""
    critic = method.fidelity
    code = critic.label.weight[target] if target is not None else torch.zeros(len(feature), 5)
    return infonce(
        delta.flatten(1) @ critic.prompt.weight.T, torch.cat([feature.detach(), code], 1) @ critic.data.weight.T
    )


def objectives(
    method: Any, parts: dict[int, Batch], rng: torch.Generator, common: dict[int, Tensor] | None = None
) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
    """(J_i, means of the terms) of a micro-batch."""
    deltas = {i: method.generators[i](b.inputs) for i, b in parts.items()}
    found, terms = {}, {"ce": [], "fidelity": [], "distinction": []}
    for i, batch in parts.items():
        feature = method.feature(batch.inputs, deltas[i] + (method.common.series if common is None else common[i]))
        ce, own = nll(method.head(feature), batch.target), informed(method, deltas[i], feature, batch.target)
        apart = []
        for r in (r for r in parts if r != i):
            size = min(len(batch), len(parts[r]))
            order = pair_by_class(batch.target[:size], parts[r].target[:size], rng)
            apart.append(leave_one_out(deltas[i][:size].flatten(1), deltas[r].detach()[:size].flatten(1)[order]))
        far = sum(apart) / len(apart)
        found[i] = ce - LAM1 * own + LAM2 * far
        for name, value in zip(terms, (ce, own, far), strict=True):
            terms[name].append(value.detach())
    norms = torch.cat([d.detach().flatten(1).norm(dim=1) for d in deltas.values()])
    return found, {**{name: sum(values) / len(values) for name, values in terms.items()}, "delta_norm": norms.mean()}


def target_of(method: Any, batch: Batch) -> Tensor:
    delta = method.target_generator(batch.inputs)
    feature = method.feature(batch.inputs, method.common.series + delta)
    loss = -LAM1 * informed(method, delta, feature, batch.target)
    return loss if batch.target is None else loss + nll(method.head(feature), batch.target)


def pond(**options: Any) -> Any:
    given = {"fidelity_weight": LAM1, "discrimination_weight": LAM2, "temperature": TAU, **SMALL, **options}
    return moved(seeded_make(POND, **given), scale=0.1)


def numbered(part: dict[str, Batch]) -> dict[int, Batch]:
    return {int(name[-1]): batch for name, batch in part.items() if name != "target"}


@pytest.mark.parametrize("target", ["shots", "unlabeled", None])
@pytest.mark.parametrize("at", [None, 3])
def test_a_joint_step_of_pond(at: int | None, target: str | None) -> None:
    method = pond()
    rows = SOURCES if target is None else {**SOURCES, "target": (0, 1, 2, 3, 4)}
    parts = cut(rows, {**POND_ROLES, "target": target or ""}, at)
    ctx = Stepping(method, parts)
    shared, own, logged = torch.zeros(()), torch.zeros(()), {}
    for number, part in enumerate(parts):
        found, logs = objectives(method, numbered(part), ctx.rng("pairs", *([number] if number else [])))
        shared = shared + sum(len(part[f"source-{i}"]) / len(rows[f"source-{i}"]) * j for i, j in found.items()) / 3
        for name, value in logs.items():
            logged[name] = logged.get(name, 0) + value / len(parts)
        if target is not None:
            own = own + len(part["target"]) / 5 * target_of(method, part["target"]) / 3
    gradients = gradients_of(method, shared)
    assert not any(name.startswith("target_generator") for name in gradients)
    if target is not None:  # the target moves its own generator only
        gradients |= gradients_of(method, own, "target_generator.*")
    logs = method.joint_step(ctx)
    close(logs["loss"], (shared + own).detach())
    for name, value in logged.items():
        close(logs[name], value, 1e-4)
    ((_, taken),) = ctx.updates
    same_gradients(taken, gradients)
    assert all(float(gradients[f"generators.{i}.last.weight"].abs().max()) > 0 for i in range(3))


@pytest.mark.parametrize("inner", ["sgd", "adam"])
def test_a_meta_step_of_pond(inner: str) -> None:
    """q_in inner steps: every P_i by its own J_i, everything else by their mean; then P moves by beta times the mean of the moves."""
    options = {"meta": "reptile", "inner_steps": 2, "inner_optimizer": inner, "prompt_lr": 0.05, "outer_step": 0.4}
    method, slow = pond(**options), pond(**options)
    rows = {**SOURCES, "target": (0, 1, 2)}
    batches = cut(rows, POND_ROLES, None)[0]
    main = ("common.codes", "generators.*", "target_generator.*", "head.*", "fidelity.*")
    ctx = Stepping(method, [batches], {"main": (main, 0.1), "prompt": (("common.series",), 0.4)})
    start = slow.common.series.detach().clone()
    copies = {i: start.clone().requires_grad_() for i in range(3)}
    moments = {i: (torch.zeros_like(start), torch.zeros_like(start)) for i in range(3)}
    losses, updates = [], []
    for number in range(2):
        part = {}
        for i in range(3):
            size = math.ceil(len(rows[f"source-{i}"]) / 2)
            part[i] = batch_of(DATA["train"], *rows[f"source-{i}"][number * size : (number + 1) * size])
        found, _ = objectives(slow, part, ctx.rng("pairs", number), copies)
        shared, own = sum(found.values()) / 3, target_of(slow, batches["target"]) / 3
        losses.append((shared + own).detach())
        gradients = {**gradients_of(slow, shared, *main), **gradients_of(slow, own, "target_generator.*")}
        updates.append(gradients)
        moves = {i: torch.autograd.grad(found[i], copies[i], retain_graph=True)[0] for i in range(3)}
        with torch.no_grad():
            for i, gradient in moves.items():
                first, second = moments[i]
                moments[i] = (0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2)
                first, second = (m / (1 - b ** (number + 1)) for m, b in zip(moments[i], (0.9, 0.999), strict=True))
                copies[i] -= 0.05 * (first / (second.sqrt() + 1e-8) if inner == "adam" else gradient)
            for name, gradient in gradients.items():
                dict(slow.named_parameters())[name].sub_(0.1 * gradient)
    logs = method.meta_step(ctx, batches)
    close(torch.as_tensor(logs["loss"]), sum(losses) / 2, 1e-4)
    assert [name for name, _ in ctx.updates] == ["main", "main", "prompt"]
    for (_, have), want in zip(ctx.updates, updates, strict=False):
        same_gradients(have, want, 1e-4)
    want = start + 0.4 * sum(c.detach() - start for c in copies.values()) / 3
    close(method.common.series.detach(), want)
    assert float((want - start).abs().max()) > 1e-3


@pytest.mark.parametrize("role", ["shots", "unlabeled"])
@pytest.mark.parametrize("at", [None, 3])
def test_a_target_step_of_pond(role: str, at: int | None) -> None:
    """g_T alone has a gradient in its stage."""
    method = pond()
    for name, p in method.named_parameters():
        p.requires_grad_(name.startswith("target_generator."))
    parts = cut({role: (0, 1, 2, 3, 4)}, {role: role}, at)
    ctx = Stepping(method, parts)
    total = sum(len(part[role]) / 5 * target_of(method, part[role]) for part in parts)
    fidelity = sum(
        len(part[role])
        / 5
        * informed(
            method,
            d := method.target_generator(part[role].inputs),
            method.feature(part[role].inputs, method.common.series + d),
            part[role].target,
        )
        for part in parts
    )
    gradients = gradients_of(method, total)
    logs = method.target_step(ctx)
    close(logs["loss"], total.detach())
    close(logs["fidelity"], fidelity.detach())
    same_gradients(ctx.updates[0][1], gradients)


def test_the_class_loss_is_cross_entropy() -> None:
    logits, target = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    close(nll(logits, target), F.cross_entropy(logits, target))
