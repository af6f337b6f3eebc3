"""Linear probing of part segmentation: a linear layer on frozen patch features carried to the points, the baseline of `idpt_seg`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pt_core import Backbone, Batch, Task
from torch import Tensor, nn
from torch.nn import functional as F

from pt_pointcloud.method import PointMethod
from pt_pointcloud.networks.propagation import default_layers, propagate

ID = "linear_seg"
TITLE = "Linear probe of part segmentation on frozen features (baseline)"
TUNES = "a linear layer per point"
NEEDS = {"train": "point clouds with a category each and a part per point (--task parts)"}


@dataclass(frozen=True)
class LinearSegConfig:
    pass


class LinearSegProbe(PointMethod):
    """log-softmax of W [xyz, z(x), max over patches of z, onehot category] + b, with z the outputs of three blocks (see `idpt_seg`).

    Parameters: (3 + 6 C + K) P + P for K categories and P parts.
    """

    Config = LinearSegConfig
    predicts = "point"
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 5e-3,
        "weight_decay": 1e-4,
        "epochs": 100,
        "batch_size": 16,
    }
    config: LinearSegConfig

    def __init__(self, config: LinearSegConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.layers = default_layers(self.backbone.depth)
        self.head = nn.Linear(3 + 6 * self.backbone.dim + len(task.class_names()), task.outputs)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, N, part) log-probabilities."""
        read = ["token", *(f"block[{layer}]" for layer in self.layers)]
        features = self.backbone(batch.inputs, read=read, class_token=False)
        z = torch.cat([features.extra[f"block[{layer}]"] for layer in self.layers], -1).float()
        points = batch.inputs["points"].float()
        carried = propagate(points, features.extra["centres"].float(), z)
        onehot = F.one_hot(batch.inputs["category"], len(self.task.class_names())).float()
        cloud = torch.cat([z.max(1).values, onehot], -1)[:, None].expand(-1, points.shape[1], -1)
        logits: Tensor = self.head(self.own_precision(torch.cat([points, carried, cloud], -1)))
        return logits.log_softmax(-1)
