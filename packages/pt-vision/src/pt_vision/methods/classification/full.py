"""Full fine-tuning: every weight of a copy of the backbone is trained, with a linear head. The upper end of the parameter axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pt_core import Backbone, Batch, Task
from torch import Tensor, nn

from pt_vision.classification.method import VisionMethod

ID = "full"
TITLE = "Full fine-tuning (baseline)"
TUNES = "every backbone weight and a linear head"
NEEDS = {"train": "labelled images"}


@dataclass(frozen=True)
class FullConfig:
    pool: Literal["default", "class", "token", "all_but_class"] = "default"
    """Feature the head reads."""
    stochastic: bool = False
    """Run the backbone's own dropout and drop-path while training; they draw for whole batches, so that results then depend on how a batch
    is cut (`--accumulate`, processes)."""


class FullFineTuning(VisionMethod):
    """logits = W pool(backbone'(x)) + b, where backbone' starts as a copy of the frozen network.

    Parameters: |backbone| + C * d + C.
    """

    Config = FullConfig
    class_tensors = ("head.*",)
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 1e-4,
        "weight_decay": 0.01,
        "epochs": 30,
        "warmup_epochs": 3,
        "clip_norm": 1.0,
    }
    config: FullConfig

    def __init__(self, config: FullConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.claimed = self.backbone.claim("*", buffers=True)
        self.claimed.stochastic = self.coupled = config.stochastic
        self.head = nn.Linear(self.backbone.feature_dim, task.outputs)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        pool = self.config.pool
        features = self.backbone(batch.inputs, weights=self.claimed, read=self.backbone.pool_segments(pool))
        return self.classify(self.backbone.pool(features, pool, weights=self.claimed))
