"""A stream read once, in the order of its samples: labels appear as it goes on, and a memory of past samples is replayed.

Tracked state: `seen` (class,) and `memory` (slots,) rows of the training data, filled in the order of the stream.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from pt_core import Stage, Stream
from pt_core.run.data.sampling import SubsetDataset
from pt_core.testing.tiny import TinyMethod

ID = "online"
TITLE = "One Pass with Replay"
TUNES = "two prompts per block and a linear head"
NEEDS = {"train": {"what": "labelled vectors in the order of their arrival", "split": False}}


@dataclass(frozen=True)
class OnlineConfig:
    slots: Annotated[int, Ge(1)] = 6
    """Samples that the memory holds."""
    repeat: Annotated[int, Ge(1)] = 1
    """Steps per batch."""


class Online(TinyMethod):
    Config = OnlineConfig
    recipe: ClassVar = {"lr": 0.05, "epochs": 1, "batch_size": 6, "device": "cpu", "select": False}

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        self.register_buffer("seen", torch.zeros(task.outputs, dtype=torch.bool))
        self.register_buffer("memory", torch.empty(0, dtype=torch.long))

    def forward(self, batch):
        return super().forward(batch).masked_fill(~self.seen, -1e4)

    def stages(self, ctx):
        stream = Stream("train", shuffle=False, repeat=self.config.repeat)
        tracks = ("seen", "memory")
        yield Stage("stream", tracks=tracks, streams={"train": stream}, step_parts=self.step, evaluates=self.of_seen)

    def of_seen(self, dataset, step):
        return SubsetDataset(dataset, [row for row, label in enumerate(dataset.labels) if self.seen[label]])

    def step(self, ctx):
        arrived = [part["train"] for part in ctx.parts if part]
        rows = ctx.gather([row for batch in arrived for row in batch.index.tolist()])
        labels = ctx.gather([label for batch in arrived for label in batch.target.tolist()])
        self.seen[torch.tensor(labels)] = True
        old = ctx.batch("train", self.memory.tolist()) if len(self.memory) else None
        if old is not None:
            self.learn(ctx, old)
        ctx.each_part(lambda part: self.learn(ctx, part["train"]))
        ctx.update()
        fresh = [row for row in dict.fromkeys(rows) if row not in self.memory.tolist()]
        self.memory = torch.tensor([*self.memory.tolist(), *fresh][-self.config.slots :])
        return {"replayed": 0.0 if old is None else float(len(old))}

    def learn(self, ctx, batch):
        loss, count = self.task.loss(self(batch), batch)
        ctx.backward(loss, count)
