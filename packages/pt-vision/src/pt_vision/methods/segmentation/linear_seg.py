"""Linear probing of segmentation: a 1x1 classifier on the frozen encoder's four stages. The baseline of prompts on a frozen segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Task
from torch import Tensor, nn

from pt_vision.networks.segformer import resize
from pt_vision.segmentation.method import WindowMethod
from pt_vision.segmentation.network import CROP

ID = "linear_seg"
TITLE = "Linear probe of segmentation on frozen features (baseline)"
TUNES = "a 1x1 classifier"
NEEDS = {"train": "images with masks (--task segmentation)"}
BACKBONES = {"encoder": "fit, predict"}


@dataclass(frozen=True)
class LinearSegConfig:
    features: Literal["stages", "decoder"] = "stages"
    """What the classifier reads: the encoder's four stages at 1/4, or the outputs of the frozen decoder's four linear maps."""
    crop_size: Annotated[int, Ge(32)] | None = None
    """Side of training crops and inference windows (default: what the backbone was made for, else 1024)."""


class LinearSegProbe(WindowMethod):
    """logits = W [F_1, up F_2, up F_3, up F_4] + b per position at 1/4, enlarged to the image.

    Parameters: K e + K with e = sum of the stage widths, or 4 E with the decoder of width E.
    """

    Config = LinearSegConfig
    class_tensors = ("classifier.*",)
    coupled = False
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 5e-3,
        "weight_decay": 1e-4,
        "epochs": 40,
        "batch_size": 10,
        "augment": "flip",
    }
    config: LinearSegConfig

    def __init__(self, config: LinearSegConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.crop = config.crop_size or int(self.backbone.preprocessing.get("crop") or CROP)
        stages = config.features == "stages"
        inputs = sum(self.backbone.stage_dims) if stages else 4 * self.backbone.decoder.width
        self.classifier = nn.Conv2d(inputs, task.outputs, 1)

    def logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            if self.config.features == "decoder":
                features = self.backbone(images, read=["decoder"]).extra["decoder"]
            else:
                maps = self.backbone(images).extra["maps"]
                features = torch.cat([resize(found, maps[0].shape[2:]) for found in maps], 1)
        return resize(self.classifier(features.to(self.classifier.weight.dtype)), images.shape[2:])
