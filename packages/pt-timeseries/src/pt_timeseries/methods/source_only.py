"""The lower bound: the pooled-source classifier on the target as it is, with nothing known of the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pt_core import Backbone, Batch, Stage, Task
from torch import Tensor

from pt_timeseries.method import SeriesMethod, samples, stage_steps

ID = "source_only"
TITLE = "Source only: a linear head on frozen features of the pooled sources (baseline)"
TUNES = "a linear head"
NEEDS = {"train": "labelled windows of source domains"}


@dataclass(frozen=True)
class SourceOnlyConfig:
    pass


class SourceOnly(SeriesMethod):
    """logits = W mean(f(X)) + b. Features are prompt-free and the encoder is frozen: they are computed once per window.

    Parameters: C d + C.
    """

    Config = SourceOnlyConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "epochs": 10,
        "batch_size": 32,
    }

    def __init__(self, config: SourceOnlyConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.head = self.new_head()

    def frozen_key(self) -> str:
        return "mean"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(batch, dim)."""
        return self.backbone.pool(self.backbone(batch.inputs))

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        pooled = batch.extra.get("frozen")
        return self.head(self.own_precision(self.frozen_part(batch) if pooled is None else pooled))

    def stages(self, ctx: Any) -> Iterator[Stage]:
        steps = stage_steps(ctx, ctx.options.epochs, samples(ctx, "train"), ctx.options.batch_size)
        yield Stage("train", options=steps)
