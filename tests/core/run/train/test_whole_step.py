"""Steps of the default loop against one written by hand: batches, gradients of cut batches, clipping, schedule, AdamW, what is logged."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.testing.tiny import Vectors
from torch import Tensor

from tests.core.run.train.test_trainer import build
from tests.core.toys import TOYS

GIVEN = {
    "lr": 0.02,
    "weight_decay": 0.1,
    "clip_norm": 0.4,
    "schedule": "linear",
    "optimizer": "adamw",
    "steps": 4,
    "batch_size": 7,
}


def nll(logits: Tensor, target: Tensor) -> Tensor:
    return torch.stack([row.logsumexp(0) - row[int(y)] for row, y in zip(logits, target, strict=True)]).mean()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_four_steps_of_the_default_loop(accumulate: int, tmp_path) -> None:
    options = TrainOptions(**GIVEN, accumulate=accumulate, device="cpu", eval_every=1)
    kind = next(iter(TOYS))
    method, slow, data = build(kind), build(kind), Vectors(24, seed=1)
    seen: list[list[int]] = []
    plain = method.training_step

    def step(batch):
        seen.append(batch.index.tolist())
        return plain(batch)

    method.training_step = step
    with RunDir(tmp_path / "run").open(False) as run:
        run.update({"status": "running"})
        Trainer(method, {"train": data}, options, run, World(options)).fit(False)
    draws = [[row for part in seen[n * accumulate : (n + 1) * accumulate] for row in part] for n in range(4)]
    assert [len(rows) for rows in draws[:3]] == [7, 7, 7]
    assert len({row for rows in draws[:3] for row in rows}) == 21  # an epoch draws no sample twice
    named = {name: p for name, p in slow.named_parameters() if p.requires_grad}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in named.items()}
    losses, norms, clipped = [], [], 0
    for number, rows in enumerate(draws):
        batch = data.collate(rows, [data.values[row] for row in rows])
        loss = nll(slow(batch), batch.target)
        gradients = torch.autograd.grad(loss, list(named.values()))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        clipped += norm > 0.4
        losses.append(float(loss.detach()))
        norms.append(norm)
        rate = 0.02 * (1 - number / 4)
        with torch.no_grad():
            for (name, p), gradient in zip(named.items(), gradients, strict=True):
                g = gradient * min(1.0, 0.4 / (norm + 1e-6))
                first, second = moments[name]
                moments[name] = (0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2)
                first, second = (m / (1 - b ** (number + 1)) for m, b in zip(moments[name], (0.9, 0.999), strict=True))
                p.mul_(1 - rate * 0.1).sub_(rate * first / (second.sqrt() + 1e-8))
    assert clipped > 0, "or the test says nothing"
    for name, p in method.named_parameters():
        torch.testing.assert_close(p, dict(slow.named_parameters())[name], rtol=1e-4, atol=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {row["step"]: row for row in rows if row.get("split") == "train"}
    for number in (1, 4):
        assert logged[number]["loss"] == pytest.approx(losses[number - 1], rel=1e-4)
        assert logged[number]["grad_norm"] == pytest.approx(norms[number - 1], rel=1e-3)
        assert logged[number]["lr"] == pytest.approx(0.02 * (1 - (number - 1) / 4))
