"""Supervised training of a segmenter on labelled images alone: what adaptation has to beat, and full fine-tuning within one domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Gt, Le
from pt_core import Backbone, Batch, Stage, StepOutput, Task
from pt_core.randomness import shared_rng
from torch import Tensor

from pt_vision.segmentation.hrda import draw_box
from pt_vision.segmentation.method import RECIPE, SegmentationMethod, parameter_groups, supervised
from pt_vision.segmentation.network import CLASS_TENSORS, Network, NetworkConfig, scale_loss

ID = "source_only"
TITLE = "Supervised training of encoder and decoder (baseline)"
TUNES = "encoder and decoder"
NEEDS = {"train": "images with masks (--task segmentation)"}
BACKBONES = {"encoder": "fit, predict"}


@dataclass(frozen=True)
class SourceOnlyConfig(NetworkConfig):
    max_share: Annotated[float, Gt(0), Le(1)] = 0.75
    """Crops in which one class takes more are drawn anew."""


class SourceOnly(SegmentationMethod):
    """Cross-entropy of encoder' and decoder on random crops; with HRDA 0.9 of the fused logits' and 0.1 of the detail window's.

    Parameters: |encoder| + |head| + |scale attention| (|head| + |scale attention| with `freeze_backbone`).
    """

    Config = SourceOnlyConfig
    class_tensors = CLASS_TENSORS
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "steps": 40_000}
    config: SourceOnlyConfig

    def __init__(self, config: SourceOnlyConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.network = Network(self.backbone, task.outputs, config)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class, row, column) logits."""
        logits: Tensor = self.network(batch.inputs)
        return logits

    def training_step(self, batch: Batch) -> StepOutput:
        box = draw_box(batch.inputs.shape[-1], shared_rng(batch, "box")) if self.config.hrda else None
        out = self.network.scales(batch.inputs, box)
        return StepOutput(scale_loss(out, batch.target, None, self.config.detail_weight), len(batch))

    def stages(self, ctx: Any) -> Iterator[Stage]:
        return supervised(self, self.network.crop, self.config.max_share)

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        return parameter_groups(self)
