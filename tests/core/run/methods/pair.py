"""Two frozen networks look at one augmented sample; a head reads both."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pt_core import Insert, Method
from torch import nn

ID = "pair"
TITLE = "Two Networks, One Sample"
TUNES = "two prompts of the fine network and a head over both"
NEEDS = {"train": "labelled vectors"}
BACKBONES = {"fine": "fit, predict", "coarse": "fit, predict"}


@dataclass(frozen=True)
class PairConfig:
    length: int = 2
    """Prompts."""


class Pair(Method):
    Config = PairConfig
    recipe: ClassVar = {"lr": 0.05, "epochs": 2, "batch_size": 8, "device": "cpu"}
    class_tensors = ("head.*",)

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        fine, coarse = backbones["fine"], backbones["coarse"]
        self.prompt = nn.Parameter(torch.randn(config.length, fine.dim) * 0.1)
        self.head = nn.Linear(fine.dim + coarse.dim, task.outputs)

    def forward(self, batch):
        fine = self.backbones["fine"](batch.inputs["fine"], {"tokens[0]": Insert(self.prompt)})
        coarse = self.backbones["coarse"](batch.inputs["coarse"])
        return self.head(torch.cat([fine.tokens.mean(1), coarse.tokens.mean(1)], 1))
