"""Two rounds over two hosts: the teacher learns from labels and labels what has none, the student learns from that."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from pt_core import Stage, StepOutput, Stream
from pt_core.strategy import Strategy
from torch.nn import functional as F

ID = "rounds"
TITLE = "Pseudo-Labels in Rounds"
TUNES = "what its hosts tune"
NEEDS = {"train": "labelled vectors", "unlabeled": {"what": "vectors without labels", "labels": "none"}}
HOSTS = {"teacher": "prompt", "student": "prompt"}


@dataclass(frozen=True)
class RoundsConfig:
    rounds: Annotated[int, Ge(1)] = 2
    """Rounds."""


class Rounds(Strategy):
    Config = RoundsConfig
    recipe: ClassVar = {"lr": 0.05, "steps": 4, "batch_size": 8, "device": "cpu"}
    leaves = "student"

    def __init__(self, config, backbones, task, hosts):
        super().__init__(config, backbones, task, hosts)
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))
        self.acting = "student"

    @property
    def host(self):
        """What predicts; the teacher is used by name."""
        return self.host_of("student")

    def stages(self, ctx):
        for number in range(self.config.rounds):
            if number:

                def afresh(job, number=number):
                    self.host.reset("student", number)

                yield Stage(f"afresh-{number}", trains=("hosts.student.*",), streams={}, run=afresh)
            self.acting = "teacher"
            yield Stage(f"teach-{number}").under("hosts.teacher.")
            yield Stage(f"label-{number}", trains=(), tracks=("labels",), streams={}, run=self.label)
            self.acting = "student"
            streams = {"u": Stream("unlabeled")}
            yield Stage(f"learn-{number}", trains=("hosts.student.*",), streams=streams)

    def label(self, ctx):
        scores = [self.task.logits(self.host_of("teacher")(batch)) for batch in ctx.batches("unlabeled", 5)]
        self.labels = torch.cat(scores).argmax(-1).detach()

    def training_step(self, batch):
        if self.acting == "teacher" or batch.target is not None:
            return self.host_of(self.acting).training_step(batch)
        return StepOutput(F.cross_entropy(self.host(batch), self.labels[batch.index]), len(batch))
