"""Full fine-tuning: every weight of a copy of the backbone is trained, with the published head. The upper end of the parameter axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pt_core import Backbone, Batch, Task
from torch import Tensor, nn

from pt_pointcloud.method import RECIPE, PointMethod
from pt_pointcloud.networks.head import build_head
from pt_pointcloud.networks.transformer import CLASS_TENSORS

ID = "full"
TITLE = "Full fine-tuning (baseline)"
TUNES = "every backbone weight, the class token, and an MLP head"
NEEDS = {"train": "labelled point clouds or meshes"}


@dataclass(frozen=True)
class FullConfig:
    stochastic: bool = True
    """Train mode of the backbone while training, as published: drop-path, and BatchNorm statistics follow the data. With
    or without it results depend on how a batch is cut: the head has BatchNorm."""


class FullFineTuning(PointMethod):
    """logits = head([x_cls, max_g x_g]) of backbone', which starts as a copy of the frozen network.

    Parameters: |backbone| + 2 C + head(2 C); 22,093,327 for Point-MAE and 15 classes.
    """

    Config = FullConfig
    coupled = True  # BatchNorm
    recipe = RECIPE
    config: FullConfig

    def __init__(self, config: FullConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.claimed = self.backbone.claim("*", buffers=True)
        self.claimed.stochastic = config.stochastic
        if not self.backbone.module.class_token_trained:
            for name in CLASS_TENSORS:
                nn.init.trunc_normal_(getattr(self.claimed, name), std=0.02)
        self.head = build_head(2 * self.backbone.dim, task.outputs)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        features = self.backbone(batch.inputs, weights=self.claimed, class_token=True)
        pooled = torch.cat([features.part("class")[:, 0], features.part("token").max(1).values], -1)
        logits: Tensor = self.head(self.own_precision(pooled))
        return logits
