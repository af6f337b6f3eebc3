"""IDPT for part segmentation (Zha et al., ICCV 2023, arXiv 2304.07221, ShapeNetPart): prompts at three blocks, 3-NN propagation.

No class token. In front of blocks l in (3, 7, 11) a prompt p_l = max LeakyReLU(BN(W_l y_l)) is computed from the patch tokens y_l, gets
one position shared by the three, takes part in that block and is dropped behind it. Kept of each block, through the final norm: p_l, its
output o_l, and the patch outputs z_l.

points:  [xyz, 3-NN interpolation of [z_3, z_7, z_11]] -> 1536 -> 1024
cloud:   [p_3, p_7, p_11, o_3, o_7, o_11, label feature (64)]
both -> 512 -> dropout 0.5 -> 256 -> parts, log-softmax
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pt_core import Backbone, Batch, Insert, Layout, Task
from pt_core.errors import ConfigError
from pt_core.randomness import Dropout
from torch import Tensor, nn
from torch.nn import functional as F

from pt_pointcloud.method import RECIPE, PointMethod
from pt_pointcloud.networks.edgeconv import SLOPE
from pt_pointcloud.networks.head import Norm
from pt_pointcloud.networks.prompts import MaxToken
from pt_pointcloud.networks.propagation import default_layers, propagate

ID = "idpt_seg"
TITLE = "Instance-aware Dynamic Prompt Tuning for Pre-trained Point Cloud Models, part segmentation"
TUNES = "three prompt modules, their position, and a per-point head"
NEEDS = {"train": "point clouds with a category each and a part per point (--task parts)"}


@dataclass(frozen=True)
class IDPTSegConfig:
    layers: tuple[int, ...] = ()
    """Blocks that get a prompt (default: three at equal distances with the last one, 3, 7 and 11 of 12)."""


class IDPTSeg(PointMethod):
    """Per-point log-probabilities.

    Shapes: prompts (batch, 1, C) each; per-point features (batch, N, 3 C + 3).

    Parameters for three blocks, K categories and P parts: 3 (C C + 2 C) + C + 64 K + 128 + head; 5,683,762 for C = 384, K = 16, P = 50
    (the released modules hold 2,304 more, in BatchNorms that nothing uses).
    """

    Config = IDPTSegConfig
    coupled = True  # BatchNorm
    predicts = "point"
    class_tensors = ("head.*", "label.*")
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "lr": 2e-4, "batch_size": 16}
    config: IDPTSegConfig

    def __init__(self, config: IDPTSegConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim, depth = self.backbone.dim, self.backbone.depth
        self.layers = tuple(sorted(set(config.layers))) or default_layers(depth)
        if self.layers[0] < 0 or self.layers[-1] >= depth:
            raise ConfigError(
                f"layers={self.layers} do not all exist: {self.backbone.source!r} has blocks 0..{depth - 1}"
            )
        count = len(self.layers)
        self.prompt_modules = nn.ModuleList(MaxToken(dim, dim) for _ in self.layers)
        self.prompt_position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.label = nn.Sequential(nn.Linear(len(task.class_names()), 64, bias=False), Norm(64), nn.LeakyReLU(SLOPE))
        self.points = nn.Sequential(
            nn.Linear(3 + count * dim, 4 * dim),
            Norm(4 * dim),
            nn.ReLU(),
            nn.Linear(4 * dim, 1024),
            Norm(1024),
            nn.ReLU(),
        )
        self.join = nn.Linear(1024 + 2 * count * dim + 64, 512)
        self.head = nn.Sequential(
            Norm(512),
            nn.ReLU(),
            Dropout(0.5, "head"),
            nn.Linear(512, 256),
            Norm(256),
            nn.ReLU(),
            nn.Linear(256, task.outputs),
        )

    def forward(self, batch: Batch) -> Tensor:
        """(batch, N, part) log-probabilities."""
        prompts: dict[int, Tensor] = {}

        def insert(number: int) -> Any:
            def compute(hidden: Tensor, layout: Layout) -> Tensor:
                prompts[number] = self.prompt_modules[number](self.own_precision(hidden[:, layout.slice("token")]))
                return prompts[number] + self.prompt_position

            return compute

        edits = {f"tokens[{layer}]": Insert(insert(number)) for number, layer in enumerate(self.layers)}
        read = ["token", *(f"block[{layer}]" for layer in self.layers)]
        features = self.backbone(batch.inputs, edits, read=read, class_token=False)
        outputs = [features.extra[f"block[{layer}]"].float() for layer in self.layers]  # prompt first
        norm: Any = self.backbone.module.norm
        generated = [norm(prompts[number].to(self.backbone.dtype))[:, 0].float() for number in range(len(self.layers))]
        points = batch.inputs["points"].float()
        carried = propagate(points, features.extra["centres"].float(), torch.cat([out[:, 1:] for out in outputs], -1))
        per_point = self.points(self.own_precision(torch.cat([points, carried], -1)))
        onehot = F.one_hot(batch.inputs["category"], len(self.task.class_names())).float()
        label = self.label(self.own_precision(onehot))
        per_cloud = self.own_precision(torch.cat([*generated, *(out[:, 0] for out in outputs), label], -1))
        # The product with what all points of a cloud share is computed once per cloud.
        of_point, of_cloud = self.join.weight.split([per_point.shape[-1], per_cloud.shape[-1]], 1)
        joined = F.linear(per_point, of_point) + F.linear(per_cloud, of_cloud, self.join.bias)[:, None]
        logits: Tensor = self.head(joined)
        return logits.float().log_softmax(-1)
