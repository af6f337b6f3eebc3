"""A whole step of the methods with one of their own against a loop written by hand: losses, gradients, values after it.

The frozen language model is transformers' own module, called row by row without padding or cache; IAPT's prompts in front of every layer
go through the adapter (they have tests of their own).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_language.methods.cpt import CPT
from pt_language.methods.iapt import IAPT
from torch import Tensor

from tests.language.common import batch, close, make
from tests.stepping import Stepping, gradients_of, same_gradients


def token_losses(logits: Tensor, answer: Tensor) -> list[Tensor]:
    """-log p of every answer token."""
    return [row.logsumexp(0) - row[int(token)] for row, token in zip(logits, answer, strict=True)]


# ---- CPT ----------------------------------------------------------------------------------------------------------------------


def cpt_losses(method: Any, one: Batch) -> list[Tensor]:
    """Weighted losses of the query's label and of the labels in its context, for every row."""
    found = []
    for row in range(len(one)):
        own = one.inputs["ids"][row][one.inputs["mask"][row].bool()]
        answer = one.extra["answer"][row]
        answer = answer[answer >= 0]
        fixed = method.backbone.embeddings.detach()
        context = fixed[method.ids] + method.delta * (method.codes % 4 != 0)[:, None]
        logits = method.backbone.module(inputs_embeds=torch.cat([context, fixed[own], fixed[answer]])[None]).logits[0]
        found += token_losses(logits[-len(answer) - 1 : -1], answer)
        for place, code in enumerate(method.codes.tolist()):
            if code > 0 and code % 4 == 0:
                age = int(method.codes.max()) // 4 - code // 4 + 1
                found.append(0.7**age * token_losses(logits[place - 1][None], method.ids[place][None])[0])
    return found


def test_a_step_of_cpt() -> None:
    """Two micro-batches, a step of gradient descent, and the projection into the balls."""
    method: Any = make(CPT, adopt=3, gamma=0.7, epsilon_input=0.4, epsilon_format=0.2)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():  # small enough that some rows stay inside of their balls
        method.delta.copy_(0.002 * torch.randn(method.delta.shape, generator=rng) * (method.codes % 4 != 0)[:, None])
    parts = [{"train": batch(chosen=(0, 1, 2))}, {"train": batch(chosen=(3, 4))}]
    ctx = Stepping(method, parts, {"main": (("delta",), 0.3)})
    losses = [loss for part in parts for loss in cpt_losses(method, part["train"])]
    total = sum(losses) / len(losses)
    want, start = gradients_of(method, total), method.delta.detach().clone()
    seen = [method.training_step(part["train"]) for part in parts]
    close(sum(output.loss * output.count for output in seen) / len(losses), total)
    for output in seen:
        ctx.backward(output.loss, output.count)
    ctx.update()
    ((_, taken),) = ctx.updates
    same_gradients(taken, want)
    method.project()
    moved, outside = start - 0.3 * want["delta"], 0
    for row, code in enumerate(method.codes.tolist()):
        radius = (0.4 if code % 4 == 2 else 0.2) * (32 / 2048) ** 0.5 if code % 4 else 0.0
        if float(moved[row].norm()) > radius:
            moved[row] *= radius / moved[row].norm()
            outside += 1
    assert 0 < outside < len(moved), "or the test says nothing"
    close(method.delta, moved, 1e-4)


# ---- IAPT ---------------------------------------------------------------------------------------------------------------------


def strong(**options: Any) -> Any:
    torch.manual_seed(3)
    method: Any = make(IAPT, bottleneck=6, **options)
    with torch.no_grad():
        for tensor in (method.down, method.query, method.up):
            tensor.copy_(torch.randn_like(tensor) * 0.4)
    return method


def mean_loss(method: Any, batches: list[Batch]) -> Tensor:
    """Over all answer tokens of the batches."""
    found = []
    for one in batches:
        for logits, answer in zip(method.target_logits(one), one.extra["answer"], strict=True):
            real = answer >= 0
            found += token_losses(logits[real], answer[real])
    return sum(found, torch.zeros(())) / len(found)


OMEGA, THETA = ("down", "query", "up", "head.*"), ("numerator", "denominator")


def test_a_bilevel_step_of_iapt() -> None:
    """The generators step on the training batch; behind them the activations on the validation batch."""
    method, slow = strong(), strong()
    parts = [
        {"train": batch(chosen=(0, 1, 2)), "val": batch(chosen=(5,))},
        {"train": batch(chosen=(3,))},
        {"val": batch(chosen=(6, 7))},
    ]
    ctx = Stepping(method, parts, {"generator": (OMEGA, 0.05), "activation": (THETA, 0.3)})
    updates, losses = [], []
    for stream, patterns, rate in (("train", OMEGA, 0.05), ("val", THETA, 0.3)):
        loss = mean_loss(slow, [part[stream] for part in parts if stream in part])
        updates.append(gradients_of(slow, loss, *patterns))
        losses.append(loss.detach())
        with torch.no_grad():
            for name, gradient in updates[-1].items():
                dict(slow.named_parameters())[name].sub_(rate * gradient)
    logs = method.bilevel_step(ctx)
    close(logs["loss"], losses[0])
    close(logs["val_batch_loss"], losses[1])
    assert [name for name, _ in ctx.updates] == ["generator", "activation"]
    for (_, have), want in zip(ctx.updates, updates, strict=True):
        assert set(have) == set(want)
        same_gradients(have, want, 1e-4)
    for name, p in method.named_parameters():
        close(p, dict(slow.named_parameters())[name], 1e-4)
        assert p.requires_grad


def test_a_single_step_of_iapt() -> None:
    """Both sets on the same pass, each divided by its tokens."""
    method = strong(bilevel=False)
    parts = [{"train": batch(chosen=(0, 1, 2))}, {"train": batch(chosen=(3, 4))}]
    ctx = Stepping(method, parts, {"main": (OMEGA, 0.0), "activation": (THETA, 0.0)})
    loss = mean_loss(method, [part["train"] for part in parts])
    want = gradients_of(method, loss)
    logs = method.single_step(ctx)
    close(logs["loss"], loss)
    assert [(name, sorted(found)) for name, found in ctx.updates] == [
        ("main", ["down", "query", "up"]),
        ("activation", ["denominator", "numerator"]),
    ]
    same_gradients({**ctx.updates[0][1], **ctx.updates[1][1]}, want, 1e-4)
    assert float(want["numerator"].abs().max()) > 0


@pytest.mark.parametrize("activation", ["rational", "gelu"])
def test_iapts_prompts_are_those_of_its_card(activation: str) -> None:
    """Layer by layer: the instruction's hidden states, pooled, through the layer's own activation."""
    method = strong(activation=activation, share_every=2)
    hidden, mask = (
        torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0, 0, 1, 1, 1], [1] * 5]),
    )
    for layer in range(2):
        with torch.no_grad():
            if activation == "rational":
                method.numerator[layer].add_(0.01 * layer)
        have = method.generate_prompt(layer, hidden, mask)
        for row in range(2):
            u = hidden[row][mask[row].bool()] @ method.down[0]
            pooled = (u @ method.query[0]).softmax(0).T @ u
            if activation == "gelu":
                want = 0.5 * pooled * (1 + torch.erf(pooled / 2**0.5))
            else:
                a, b = method.numerator[layer], method.denominator[layer]
                above = sum(a[j] * pooled**j for j in range(6 + 1))
                want = above / (1 + sum(b[i] * pooled ** (i + 1) for i in range(5)).abs())
            close(have[row], want @ method.up[0], 1e-4)
