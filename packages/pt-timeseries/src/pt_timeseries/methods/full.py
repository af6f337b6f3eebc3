"""Full fine-tuning on the target shots: every weight of a copy of the encoder is trained. The upper end of the parameter axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pt_core import Backbone, Batch, Stage, Stream, Task
from torch import Tensor

from pt_timeseries.method import SeriesMethod, stage_steps

ID = "full"
TITLE = "Full fine-tuning of the pre-trained encoder on the target shots (baseline)"
TUNES = "every encoder weight and a linear head"
NEEDS = {"train": "labelled windows of source domains", "shots": "labelled target windows (--target-shots)"}


@dataclass(frozen=True)
class FullConfig:
    stochastic: bool = False
    """Run the encoder's own dropout while training; results then depend on how a batch is cut (--accumulate, several processes)."""


class FullOnShots(SeriesMethod):
    """logits = W mean(f'(X)) + b, where f' starts as a copy of the frozen encoder and W as the pre-trained classifier.

    Nothing is selected on validation: the sources' windows say little about the target, and the target's labels are the shots.

    Parameters: |encoder| + C d + C.
    """

    Config = FullConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 3e-4,
        "weight_decay": 1e-4,
        "epochs": 40,
        "batch_size": 32,
        "clip_norm": 1.0,
    }
    config: FullConfig

    def __init__(self, config: FullConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.claimed = self.backbone.claim("*", buffers=True)
        self.claimed.stochastic = self.coupled = config.stochastic
        self.head = self.new_head()

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        pooled = self.backbone.pool(self.backbone(batch.inputs, weights=self.claimed))
        return self.head(self.own_precision(pooled))

    def stages(self, ctx: Any) -> Iterator[Stage]:
        tracks = ("claimed.*",) if self.config.stochastic else ()
        steps = stage_steps(ctx, ctx.options.epochs, len(ctx.data["shots"]), ctx.options.batch_size, 1)
        yield Stage("train", tracks=tracks, streams={"shots": Stream("shots")}, options=steps, select=False)
