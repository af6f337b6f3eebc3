"""Linear probing: the baseline every prompt has to beat. Only a linear head on the frozen pooled feature is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pt_core import Backbone, Batch, Task
from torch import Tensor, nn

from pt_vision.classification.method import VisionMethod

ID = "linear"
TITLE = "Linear probe on frozen features (baseline)"
TUNES = "a linear head"
NEEDS = {"train": "labelled images"}


@dataclass(frozen=True)
class LinearConfig:
    pool: Literal["default", "class", "token", "all_but_class"] = "default"
    """Frozen feature to read: what the backbone's own head reads, the class token, the mean of the patches, or of all but the class."""


class LinearProbe(VisionMethod):
    """logits = W pool(backbone(x)) + b. The pooled features are computed once per image where the data are not augmented.

    Parameters: C * d + C.
    """

    Config = LinearConfig
    class_tensors = ("head.*",)
    recipe: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 1e-4, "epochs": 100}
    config: LinearConfig

    def __init__(self, config: LinearConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.head = nn.Linear(self.backbone.feature_dim, task.outputs)

    def frozen_key(self) -> str:
        return f"pooled/{self.config.pool}"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(batch, dim)."""
        features = self.backbone(batch.inputs, read=self.backbone.pool_segments(self.config.pool))
        return self.backbone.pool(features, self.config.pool)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        pooled = batch.extra.get("frozen")
        return self.classify(self.frozen_part(batch) if pooled is None else pooled)
