"""A meta step: the host's prompt is tuned so that one inner step on one pair of classes fits the other samples of that pair.

The host is retargeted to the pair, its forward runs under `functional_call` with the inner step's tensors, and is computed again in the
backward pass.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from pt_core import Stage
from pt_core.kernels import reference_kernels
from pt_core.recompute import recomputed
from pt_core.strategy import Strategy
from torch.func import functional_call
from torch.nn import functional as F

ID = "meta"
TITLE = "Learning to Tune"
TUNES = "what its host tunes"
NEEDS = {"train": "labelled vectors"}
HOSTS = {"host": "context"}


@dataclass(frozen=True)
class MetaConfig:
    inner_lr: Annotated[float, Gt(0)] = 0.3
    """Rate of the inner step."""
    recompute: bool = True
    """Compute the host's forward again in the backward pass."""


class Meta(Strategy):
    Config = MetaConfig
    recipe: ClassVar = {"lr": 0.05, "steps": 4, "batch_size": 9, "device": "cpu", "optimizer": "sgd"}
    leaves = "host"
    coupled = True  # the inner step sees the rows of its own micro-batch only

    def stages(self, ctx):
        yield Stage("meta", step_parts=self.meta_step)

    def meta_step(self, ctx):
        ctx.apply(ctx.gradients(self.outer))
        return {}

    def outer(self, part):
        batch = part["train"]
        pair = self.task.class_names()[:2]
        view = self.host.retarget(self.task.with_classes(pair))
        chosen = (batch.target < 2).nonzero().flatten()
        inputs, target = batch.inputs[chosen], batch.target[chosen]
        half = len(chosen) // 2
        names, own = zip(*self.host.named_parameters(), strict=True)

        def run(inputs, *tensors):
            from dataclasses import replace

            rows = replace(
                batch, inputs=inputs, ids=batch.ids[: len(inputs)], index=batch.index[: len(inputs)], keys=None
            )
            return functional_call(view, dict(zip(names, tensors, strict=True)), (rows,))

        call = (lambda *given: recomputed(run, *given)) if self.config.recompute else run
        with reference_kernels():
            inner = F.cross_entropy(call(inputs[:half], *own), target[:half])
            gradients = torch.autograd.grad(inner, own, create_graph=True)
            adapted = [tensor - self.config.inner_lr * g for tensor, g in zip(own, gradients, strict=True)]
            return F.cross_entropy(call(inputs[half:], *adapted), target[half:]), len(batch)
