"""A whole step under the released code's clipping against a loop written by hand: losses, all gradients, the factor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pt_core.randomness import keyed, sampled_by
from pt_pointcloud.methods.idpt import IDPT
from pt_pointcloud.methods.vpt import VPT
from torch import Tensor

from tests.pointcloud.common import batch_of, seeded_make
from tests.stepping import Stepping, gradients_of, same_gradients

OPTIONS: dict[Any, dict[str, Any]] = {IDPT: {"neighbours": 5}, VPT: {"prompt_length": 3}}


def nll(logits: Tensor, target: Tensor) -> Tensor:
    return torch.stack([row.logsumexp(0) - row[int(y)] for row, y in zip(logits, target, strict=True)]).mean()


@pytest.mark.parametrize("limit", [0.05, 1e6])
@pytest.mark.parametrize("cls", [IDPT, VPT])
def test_a_step_clips_by_the_norm_of_all_gradients(cls: Any, limit: float) -> None:
    """Two micro-batches; the frozen weights' gradients count in the norm and are forgotten."""
    method = seeded_make(cls, clip="published", **OPTIONS[cls]).train()
    slow = seeded_make(cls, clip="tuned", **OPTIONS[cls]).train()
    for name, p in slow.named_parameters():
        assert torch.equal(p, dict(method.named_parameters())[name])
    parts = [keyed(batch_of(rows=range(start, stop)), 0, "sample") for start, stop in ((0, 5), (5, 8))]
    ctx = Stepping(method, [{"train": part} for part in parts])
    module = slow.backbone.module
    frozen = [p.requires_grad_() for name, p in module.named_parameters() if name not in ("cls_token", "cls_pos")]
    total = torch.zeros(())
    for part in parts:
        with sampled_by(part.keys):
            total = total + len(part) / 8 * nll(slow(part), part.target)
    tuned = gradients_of(slow, total)
    rest = [g for g in torch.autograd.grad(total, frozen, allow_unused=True, retain_graph=True) if g is not None]
    assert len(rest) > 20
    norm = float(torch.stack([g.norm() for g in [*tuned.values(), *rest]]).norm())
    own = float(torch.stack([g.norm() for g in tuned.values()]).norm())
    assert norm > 1.01 * own, "or the test says nothing"
    factor = min(1.0, limit / (norm + 1e-6))
    for part in parts:
        with sampled_by(part.keys):
            output = method.training_step(part)
        ctx.backward(output.loss, output.count)
    for p in method.parameters():  # as the trainer does before the hook
        if p.grad is not None:
            p.grad /= 8
    method.own.scale(list(method.parameters()), limit)
    have = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    same_gradients(have, {name: factor * g for name, g in tuned.items()}, 1e-4)
    assert (method.own.leaves, method.own.count) == ({}, 0)
    assert all(p.grad is None for p in method.backbone.module.parameters())
