"""Deep prompts on the tiny backbone; with `auxiliary` a second head that only training needs.

PT_TOY_DIES=RANK:N ends the process of that rank in its Nth training step, as a crash would.
"""

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from pt_core import StepOutput
from pt_core.testing.tiny import TinyMethod
from torch import nn

ID = "prompt"
TITLE = "Prompts for Vectors"
TUNES = "two prompts per block and a linear head"
NEEDS = {"train": "labelled vectors"}


@dataclass(frozen=True)
class PromptConfig:
    length: Annotated[int, Ge(1)] = 2
    """Prompts per block."""
    auxiliary: bool = False
    """Train a second head beside the first."""


class Prompt(TinyMethod):
    Config = PromptConfig
    recipe: ClassVar = {"lr": 0.05, "epochs": 3, "batch_size": 8, "device": "cpu"}
    training_only = ("auxiliary.*",)

    def __init__(self, config, backbones, task):
        self.length, self.calls = config.length, 0
        super().__init__(config, backbones, task)
        if config.auxiliary:
            self.auxiliary = nn.Linear(task.outputs, task.outputs)

    def training_step(self, batch):
        self.calls += 1
        if os.environ.get("PT_TOY_DIES") == f"{os.environ.get('RANK')}:{self.calls}":
            os._exit(9)
        output = self(batch)
        loss, count = self.task.loss(output, batch)
        if self.config.auxiliary:
            loss = loss + 0.1 * self.task.loss(self.auxiliary(output), batch)[0]
        return StepOutput(loss, count, self.task.logs(output, batch))
