"""A method that overrides whatever a strategy has to hand on: it is sized by its data, stored in another form than it has, begins with a
job, sees shifted samples when it predicts, and has options of prediction and a panel."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from pt_core import Stage
from pt_core.testing.tiny import TinyMethod

ID = "stored"
TITLE = "Everything Overridden"
TUNES = "two prompts per block and a linear head"
NEEDS = {"train": "labelled vectors"}


@dataclass(frozen=True)
class StoredConfig:
    rows: Annotated[int, Ge(1)] = 5
    """Samples that are remembered."""


@dataclass(frozen=True)
class StoredPredictOptions:
    heat: Annotated[float, Gt(0)] = 1.0
    """What logits are divided by."""


class Shifted:
    """Samples a little to the right."""

    def __init__(self, base):
        self.base, self.ids, self.labels = base, base.ids, base.labels

    def __len__(self):
        return len(self.ids)

    def sample(self, index, *, epoch, seed):
        return self.base.sample(index, epoch=epoch, seed=seed) + 0.5

    def collate(self, index, samples):
        return self.base.collate(index, samples)

    def identity(self):
        return self.base.identity()


class Stored(TinyMethod):
    Config = StoredConfig
    PredictOptions = StoredPredictOptions
    recipe: ClassVar = {"lr": 0.05, "steps": 3, "batch_size": 9, "device": "cpu", "optimizer": "sgd"}
    class_tensors = ("head.*",)
    exports_forward = True

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        self.register_buffer("memory", torch.empty(0, 4))
        self.register_buffer("centre", torch.zeros(4))

    def adopt(self, data):
        train = data["train"]
        self.memory = torch.stack([train.sample(row, epoch=None, seed=0) for row in range(self.config.rows)])

    def export(self, view):
        found = super().export(view)
        if view == "predict":
            found["packed"] = found.pop("memory").flatten()
        return found

    def restore(self, view, tensors):
        if view == "predict":
            rest = {name: tensor for name, tensor in tensors.items() if name != "packed"}
            tensors = {**rest, "memory": tensors["packed"].view(-1, 4)}
            from pt_core.method import assign_tensors

            assign_tensors(self, tensors, self.own_tensors().keys())

    def warm_start(self, role, artifact):
        """Of the earlier run's samples as many as it has."""
        rest = {name: tensor for name, tensor in artifact.tensors.items() if name != "packed"}
        memory = artifact.tensors["packed"].view(-1, 4)
        super().warm_start(role, replace(artifact, tensors={**rest, "memory": memory}))

    def stages(self, ctx):
        yield Stage("centre", trains=(), tracks=("centre",), streams={}, run=self.find_centre)
        yield Stage("train")

    def find_centre(self, ctx):
        self.centre = torch.cat([batch.inputs for batch in ctx.batches("train")]).mean(0)

    def forward(self, batch):
        return self.logits(batch.inputs - self.centre + self.memory.mean(0))

    def predict_step(self, batch, rng):
        return self.task.predict(self(batch) / self.predict_options.heat)

    def predict_view(self, dataset):
        return Shifted(dataset)

    def panels(self):
        return [{"title": "Centre", "kind": "bars", "data": {"first": float(self.centre[0])}, "note": ""}]
