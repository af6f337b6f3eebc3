"""Plain prompt tuning: one series prompt for all domains, trained on the pooled sources. POND without generators and information terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from pt_core import Backbone, Batch, Stage, Stream, Task
from torch import Tensor

from pt_timeseries.method import SeriesMethod, samples, stage_steps
from pt_timeseries.pond.prompts import SeriesPrompt

ID = "common_prompt"
TITLE = "Common prompt: one series prompt for all domains (ablation of POND)"
TUNES = "a common series prompt and a linear head"
NEEDS = {"train": "labelled windows of source domains"}


@dataclass(frozen=True)
class CommonPromptConfig:
    prompt_length: Annotated[int, Ge(0), Le(65_536)] = 16
    """m, time steps of the prompt; a multiple of the backbone's stride. 0 is the pre-trained classifier."""
    prompt_lr: Annotated[float, Gt(0)] = 1e-2
    """Learning rate of the prompt."""
    adapt_epochs: Annotated[float, Gt(0)] = 5
    """Passes over the sources for the head, with the target shots where there are any."""
    use_shots: bool = True
    """Fine-tune the head on the target shots too, as POND's adaptation does."""
    pool: Literal["all", "data"] = "all"
    """The head reads the mean over prompt and data tokens, or over data tokens."""


class CommonPrompt(SeriesMethod):
    """y = h(f([P ; X])).

    Parameters: n m + (m / s) d + C d + C.
    """

    Config = CommonPromptConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "epochs": 30,
        "batch_size": 128,
        "clip_norm": 1.0,
        "schedule": "constant",
    }
    config: CommonPromptConfig

    def __init__(self, config: CommonPromptConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.common = SeriesPrompt(self.backbone, config.prompt_length)
        self.head = self.new_head()

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        prompt = self.common.series.expand(len(batch), -1, -1)
        edits = self.backbone.prompt_edits(prompt, self.common.codes)
        pooled = self.backbone.pool(self.backbone(batch.inputs, edits), self.config.pool)
        return self.head(self.own_precision(pooled))

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """The new steps of a longer prompt are fresh."""
        return self.common.resized(name.removeprefix("common."), tensor)

    def stages(self, ctx: Any) -> Iterator[Stage]:
        count = samples(ctx, "train")
        yield Stage("train", options=stage_steps(ctx, ctx.options.epochs, count, ctx.options.batch_size))
        if "shots" in ctx.data and self.config.use_shots:
            steps = stage_steps(ctx, self.config.adapt_epochs, count, ctx.options.batch_size, 1)
            streams = {"source": Stream("train"), "shots": Stream("shots")}
            yield Stage("adapt", trains=("head.*",), streams=streams, options=steps, select=False)

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        groups = super().param_groups(stage)
        if stage.name != "train":
            return groups
        series = self.common.series
        rest = [tensor for tensor in groups[0]["params"] if tensor is not series]
        return [{"params": rest}, {"params": [series], "lr_scale": self.config.prompt_lr / self.recipe["lr"]}]
