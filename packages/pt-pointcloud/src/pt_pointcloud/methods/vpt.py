"""VPT-deep on point clouds, the static baseline of IDPT: the same prompts for every cloud, new ones in every block.

p prompts and p prompt positions per block are appended, attended to, and dropped behind the block (Jia et al., ECCV 2022,
arXiv 2203.12119; as used in Zha et al., arXiv 2304.07221). Dropped outputs are never read, so prompts run as keys and values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Batch, Edits, Insert, LoweredEdits, Task
from pt_core.prompts import overlaid
from torch import Tensor, nn

from pt_pointcloud.method import RECIPE
from pt_pointcloud.networks.head import build_head
from pt_pointcloud.published import PublishedTraining

ID = "vpt"
TITLE = "Visual Prompt Tuning, deep, as the static baseline of IDPT"
TUNES = "p prompts with positions per block, the class token, and an MLP head"
NEEDS = {"train": "labelled point clouds or meshes"}


@dataclass(frozen=True)
class VPTConfig:
    prompt_length: Annotated[int, Ge(0)] = 10
    """p, prompts per block."""
    mode: Literal["deep", "last"] = "deep"
    """`deep`: in every block. `last`: in the last block only, whose outputs then are the static counterpart of IDPT's prompt."""
    backbone_mode: Literal["eval", "published"] = "eval"
    """`published`: drop-path active and BatchNorm statistics of the frozen patch encoder updated while training."""
    clip: Literal["tuned", "published"] = "tuned"
    """Norm that gradients are clipped by: that of the tuned tensors, or of all weights as in the released code."""


class VPT(PublishedTraining):
    """logits = head([x_cls, max_g x_g]) with prompts P_l + R_l in front of block l.

    Shapes: prompts and positions (blocks, p, C).

    Parameters: 2 L p C + 2 C + head(2 C); 360,463 for L = 12, p = 10, C = 384 and 15 classes.
    """

    Config = VPTConfig
    coupled = True  # BatchNorm of the head
    recipe = RECIPE
    config: VPTConfig

    def __init__(self, config: VPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        depth, dim = self.backbone.depth, self.backbone.dim
        self.layers = range(depth) if config.mode == "deep" else range(depth - 1, depth)
        self.setup_class_token()
        shape = (len(self.layers), config.prompt_length, dim)
        self.prompts = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(shape), std=0.02) if config.prompt_length else torch.empty(shape)
        )
        self.positions = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(shape), std=0.02) if config.prompt_length else torch.empty(shape)
        )
        self.head = build_head(2 * dim, task.outputs)
        self._lowered = LoweredEdits()

    def frozen_key(self) -> str | None:
        return "embedding" if self.cacheable else None

    def frozen_part(self, batch: Batch) -> Tensor:
        """(batch, G, C + 3): the embedded patches, each with its centre."""
        return self.backbone.pack(batch.inputs, 0)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """With more prompts per block the new ones are fresh."""
        return overlaid(tensor, self.own_tensors()[name], axis=1) if name in ("prompts", "positions") else None

    def edits(self) -> Edits:
        if not self.config.prompt_length:
            return {}
        entering = self.prompts + self.positions
        return {f"tokens[{layer}]": Insert(entering[n]) for n, layer in enumerate(self.layers)}

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        if self.training or torch.is_grad_enabled():
            edits = self.edits()
        else:
            edits = self._lowered.get(self.backbone, [self.prompts, self.positions], self.edits)
        features = self.backbone(self.read(batch), edits, weights=self.own, class_token=True)
        pooled = torch.cat([features.part("class")[:, 0], features.part("token").max(1).values], -1)
        logits: Tensor = self.head(self.own_precision(pooled))
        return logits
