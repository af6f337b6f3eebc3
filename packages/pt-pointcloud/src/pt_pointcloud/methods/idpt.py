"""IDPT: a prompt computed from each cloud by EdgeConv on its own patch tokens (Zha et al., ICCV 2023, arXiv 2304.07221).

y = patch tokens that enter block `prompt_layer`, before the positions of that block are added
prompt = DGCNN(y)                                                       one token per cloud
[cls, prompt, patches] + [cls_pos, prompt_pos, pos] -> the remaining blocks -> final norm
logits = head([x_cls, x_prompt, max over patches])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from pt_core import Add, Backbone, Batch, Insert, Layout, Task
from pt_core.backbone import Features
from pt_core.errors import ConfigError
from torch import Tensor, nn

from pt_pointcloud.method import RECIPE
from pt_pointcloud.networks.backbone import Resume
from pt_pointcloud.networks.head import build_head
from pt_pointcloud.networks.prompts import build_prompt_module
from pt_pointcloud.published import PublishedTraining

ID = "idpt"
TITLE = "Instance-aware Dynamic Prompt Tuning for Pre-trained Point Cloud Models"
TUNES = "a DGCNN that computes one prompt token per cloud, the class token, and an MLP head"
NEEDS = {"train": "labelled point clouds or meshes"}


@dataclass(frozen=True)
class IDPTConfig:
    prompt_layer: Annotated[int, Ge(0)] | None = None
    """l, 0-based block in front of which the prompt is computed and inserted (default: the last; the paper tries 0-11)."""
    prompt_module: Literal["dgcnn", "dgcnn1", "dgcnn2", "mlp", "transformer"] = "dgcnn"
    """What computes the prompt: three EdgeConv layers, one, two, a 1x1 convolution, or a Transformer block."""
    neighbours: Annotated[int, Ge(1)] = 20
    """k of EdgeConv, in feature space, the token itself included."""
    head_input: Literal["all", "prompt", "prompt_class", "class_points"] = "all"
    """What the head reads: [class, prompt, max over patches], the prompt, [class, prompt], or [class, max over patches]."""
    train_class_token: bool = True
    """Train the class token and its position. Without it they stay at their initial values, the blocks below the prompt need no
    backward pass, and without augmentation their output is computed once per cloud."""
    train_prompt_position: bool = False
    """Train the prompt's position; in the released code it stays at its random initial value, because its name lacks "cls"."""
    backbone_mode: Literal["eval", "published"] = "eval"
    """`published`: drop-path active and BatchNorm statistics of the frozen patch encoder updated while training."""
    clip: Literal["tuned", "published"] = "tuned"
    """Norm that gradients are clipped by: that of the tuned tensors, or of all weights as in the released code."""


class IDPT(PublishedTraining):
    """logits = head([x_cls, x_prompt, max_g x_g]), x = blocks l.. of [cls, DGCNN(y), y].

    Shapes: y (batch, G, C), prompt (batch, 1, C).

    Parameters with three EdgeConv layers and all head inputs: 9 C C + 8 C + 2 C + head(3 C); 1,696,783 for C = 384 and 15 classes.
    """

    Config = IDPTConfig
    coupled = True  # BatchNorm over the batch, in the prompt module and the head
    recipe = RECIPE
    config: IDPTConfig

    def __init__(self, config: IDPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim, depth = self.backbone.dim, self.backbone.depth
        self.layer = depth - 1 if config.prompt_layer is None else config.prompt_layer
        if self.layer >= depth:
            raise ConfigError(
                f"prompt_layer={self.layer} does not exist: {self.backbone.source!r} has blocks 0..{depth - 1}"
            )
        self.setup_class_token(config.train_class_token)
        # Neighbours beyond the number of tokens: EdgeConv clamps k and warns.
        self.prompt_module = build_prompt_module(
            config.prompt_module, dim, config.neighbours, self.backbone.config.heads
        )
        position = nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02)
        if config.train_prompt_position:
            self.prompt_position = nn.Parameter(position)
        else:
            self.register_buffer("prompt_position", position)
        width = {"all": 3, "prompt": 1, "prompt_class": 2, "class_points": 2}[config.head_input] * dim
        self.head = build_head(width, task.outputs)

    # ---- what is frozen ----------------------------------------------------------------------------------------------------

    @property
    def frozen_layer(self) -> int:
        """The block up to which no tuned tensor takes part; 0: the embedding only."""
        return 0 if self.config.train_class_token else self.layer

    def frozen_key(self) -> str | None:
        if not self.cacheable:
            return None
        return "embedding" if self.frozen_layer == 0 else f"tokens[{self.layer}]/class {self.own.digest()}"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(batch, token, C + 3): tokens that enter block `frozen_layer`, each with its centre."""
        return self.backbone.pack(batch.inputs, self.frozen_layer, self.own)

    # ---- the forward pass --------------------------------------------------------------------------------------------------

    def compute_prompt(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """(batch, G, C) patch tokens without their positions -> (batch, 1, C)."""
        prompt: Tensor = self.prompt_module(self.own_precision(tokens), positions)
        return prompt

    def features(self, batch: Batch, read: tuple[str, ...] | None = None) -> Features:
        """The prompted backbone's output; segments class, prompt, token."""
        inputs = self.read(batch, self.frozen_layer)
        if not self.config.train_class_token and self.cacheable and not isinstance(inputs, Resume):
            with (
                torch.no_grad()
            ):  # exactly the tensor that the cache would hold, so nothing below the prompt is kept for backward
                inputs = Resume(self.backbone.pack(inputs, self.layer, self.own), self.layer)
        positions = None
        if self.config.prompt_module == "transformer":
            inputs = self.backbone.prepare(inputs)
            positions = self.own_precision(self.backbone.positions(inputs))

        def insert(hidden: Tensor, layout: Layout) -> Tensor:
            return self.compute_prompt(hidden[:, layout.slice("token")], positions) + self.prompt_position

        def place(hidden: Tensor, layout: Layout) -> Tensor:
            shift = torch.zeros_like(hidden)
            shift[:, layout.slice("prompt")] = self.prompt_position.to(hidden.dtype)
            return shift

        edits: dict[str, Any] = {f"tokens[{self.layer}]": Insert(insert, keep_output=True)}
        edits |= {f"tokens[{layer}]": Add(place) for layer in range(self.layer + 1, self.backbone.depth)}
        return self.backbone(inputs, edits, weights=self.own, read=read, class_token=True)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        features = self.features(batch)
        parts = {
            "class": features.part("class")[:, 0],
            "prompt": features.part("prompt")[:, 0],
            "points": features.part("token").max(1).values,
        }
        wanted = {
            "all": ("class", "prompt", "points"),
            "prompt": ("prompt",),
            "prompt_class": ("class", "prompt"),
            "class_points": ("class", "points"),
        }[self.config.head_input]
        logits: Tensor = self.head(self.own_precision(torch.cat([parts[name] for name in wanted], -1)))
        return logits

    def attention(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """How much the prompt attends to every patch in block `layer`, mean over heads (batch, G), and the centres (batch, G, 3)."""
        site = f"attention[{self.layer}]"
        features = self.features(batch, read=("token", site))
        return features.extra[site][:, :, 1, 2:].mean(1), features.extra["centres"]
