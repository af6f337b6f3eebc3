"""Linear probing: the baseline every prompt has to beat. Only a linear head on the frozen pooled feature is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pt_core import Backbone, Batch, Task
from pt_core.errors import ConfigError
from torch import Tensor, nn

from pt_pointcloud.method import PointMethod

ID = "linear"
TITLE = "Linear probe on frozen features (baseline)"
TUNES = "a linear head"
NEEDS = {"train": "labelled point clouds or meshes"}


@dataclass(frozen=True)
class LinearConfig:
    pool: Literal["max_mean", "max", "mean", "class"] = "max_mean"
    """Frozen feature: maximum and mean over the patches (Point-MAE's linear evaluation), one of them, or the pretrained class token."""


class LinearProbe(PointMethod):
    """logits = W pool(backbone(x)) + b. The pooled features are computed once per cloud where the data are not augmented.

    Parameters: K C + K classes, times 2 in C for `max_mean`.
    """

    Config = LinearConfig
    recipe: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 1e-4, "epochs": 100}
    config: LinearConfig

    def __init__(self, config: LinearConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if config.pool == "class" and not self.backbone.module.class_token_trained:
            raise ConfigError(
                f"pool='class': {self.backbone.source!r} was pretrained without a class token; use max_mean, max or mean"
            )
        self.head = nn.Linear(self.backbone.dim * (2 if config.pool == "max_mean" else 1), task.outputs)

    def frozen_key(self) -> str:
        return f"pooled/{self.config.pool}"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(batch, width)."""
        features = self.backbone(batch.inputs)
        tokens = features.part("token")
        if self.config.pool == "class":
            return features.part("class")[:, 0]
        if self.config.pool == "max_mean":
            return torch.cat([tokens.max(1).values, tokens.mean(1)], -1)
        return tokens.max(1).values if self.config.pool == "max" else tokens.mean(1)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        pooled = batch.extra.get("frozen")
        logits: Tensor = self.head(self.own_precision(self.frozen_part(batch) if pooled is None else pooled))
        return logits
