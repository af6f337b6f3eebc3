"""A strategy that leaves itself: a host that predicts, an aid that only training needs, and a temperature of its own. It defines no more
than its stages: the aid's own, then the host's own."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pt_core.strategy import Strategy
from torch import nn

ID = "keeper"
TITLE = "What a Strategy Has by Default"
TUNES = "what its hosts tune"
NEEDS = {"train": "labelled vectors"}
HOSTS = {"host": "stored", "aid": "prompt"}


@dataclass(frozen=True)
class KeeperConfig:
    cold: float = 1.0
    """Start of an own value that nobody reads."""


@dataclass(frozen=True)
class KeeperPredictOptions:
    loud: bool = False
    """An option of the strategy's own."""


class Keeper(Strategy):
    Config = KeeperConfig
    PredictOptions = KeeperPredictOptions
    recipe: ClassVar = {"lr": 0.05, "steps": 3, "batch_size": 9, "device": "cpu", "optimizer": "sgd"}
    training_only = ("hosts.aid.*",)
    class_tensors = ()

    def __init__(self, config, backbones, task, hosts):
        super().__init__(config, backbones, task, hosts)
        self.cold = nn.Parameter(torch.tensor([config.cold]))

    def stages(self, ctx):
        yield from self.host_stages(ctx, "aid", "aid-{}")
        yield from self.host_stages(ctx)
