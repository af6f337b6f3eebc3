"""Frozen weights behind learned masks, W * sigmoid(m), trained by two losses whose gradients are combined before the step."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pt_core import Method, Stage
from torch import nn

ID = "gates"
TITLE = "Masks over Frozen Weights"
TUNES = "a gate per weight of the MLPs, and a head"
NEEDS = {"train": "labelled vectors"}


@dataclass(frozen=True)
class GatesConfig:
    sparse: float = 0.01
    """Weight of the second loss, which closes gates."""


class Gates(Method):
    Config = GatesConfig
    recipe: ClassVar = {"lr": 0.5, "steps": 4, "batch_size": 9, "device": "cpu", "optimizer": "sgd"}

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        frozen = dict(self.backbone.module.named_parameters())
        self.gated = [name for name in frozen if name.startswith("mlp.") and name.endswith("weight")]
        self.gates = nn.ParameterList(torch.full_like(frozen[name], 2.0) for name in self.gated)
        self.head = nn.Linear(self.backbone.dim, task.outputs)

    def masked(self):
        frozen = dict(self.backbone.module.named_parameters())
        return {name: frozen[name] * gate.sigmoid() for name, gate in zip(self.gated, self.gates, strict=True)}

    def forward(self, batch):
        return self.head(self.backbone(batch.inputs, weights=self.masked()).tokens.mean(1))

    def stages(self, ctx):
        yield Stage("train", step_parts=self.two_losses)

    def fit_loss(self, part):
        batch = part["train"]
        return self.task.loss(self(batch), batch)

    def gate_loss(self, part):
        open_ = torch.stack([gate.sigmoid().mean() for gate in self.gates]).mean()
        return open_ * self.config.sparse, len(part["train"])

    def two_losses(self, ctx):
        fit, closing = ctx.gradients(self.fit_loss), ctx.gradients(self.gate_loss)
        ctx.apply({name: combined(fit[name], closing.get(name)) for name in fit})
        return {"gates": torch.stack([gate.sigmoid().mean() for gate in self.gates]).mean()}


def combined(fit, closing):
    """The sum, without the part of the second gradient that works against the first."""
    if closing is None:
        return fit
    conflict = (fit * closing).sum().clamp(max=0)
    return fit + closing - conflict / (fit * fit).sum().clamp(min=1e-12) * fit
