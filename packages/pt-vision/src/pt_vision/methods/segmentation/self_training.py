"""Plain self-training across domains: DAFormer's teacher and mixing, HRDA's two scales, MIC's masked images. CoDA's baseline."""

from __future__ import annotations

from dataclasses import dataclass

from pt_vision.segmentation.self_training import SelfTraining as Loop, SelfTrainingConfig as LoopConfig

ID = "self_training"
TITLE = "Self-training with DAFormer, HRDA and masked image consistency (baseline)"
TUNES = "encoder and decoder"
NEEDS = {
    "train": "images with masks of the labelled domain (--task segmentation)",
    "target": "unlabelled images of the other domain",
}
BACKBONES = {"encoder": "fit, predict"}


@dataclass(frozen=True)
class SelfTrainingConfig(LoopConfig):
    pass


class SelfTraining(Loop):
    """The loop of `pt_vision.segmentation.self_training` as it is: all target images from the start, no prompts.

    `--no-hrda --masked none` is DAFormer. Parameters: |encoder| + |head| + |scale attention|.
    """

    Config = SelfTrainingConfig
    config: SelfTrainingConfig
