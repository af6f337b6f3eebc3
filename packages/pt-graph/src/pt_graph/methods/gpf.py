"""GPF: one learned vector is added to the features of every node (Fang et al., NeurIPS 2023, arXiv 2209.15240)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from pt_core import Backbone, Task
from torch import Tensor, nn

from pt_graph.graphs.batch import Graphs
from pt_graph.method import FeaturePrompt, FrozenMode
from pt_graph.networks.head import build_head

ID = "gpf"
TITLE = "Universal Prompt Tuning for Graph Neural Networks (GPF)"
TUNES = "one vector for all nodes, and a head"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class GPFConfig:
    head_layers: Annotated[int, Ge(1)] = 1
    """Layers of the head (published: 1 to 4 per data set)."""
    frozen_mode: FrozenMode = "eval"
    """The GNN while training: as in evaluation (eval), with its dropout on (dropout), or published: BatchNorm drifts too (train; results
    then depend on how a batch is cut)."""


class GPF(FeaturePrompt):
    """x'_v = x_v + p for every node v, behind the atom embedding and before the first layer; logits = head( mean_v GNN(G, x')_v ).

    p (1, D) starts uniform in +- sqrt(6 / (1 + D)). Parameters: D + (layers - 1)(d^2 + d) + d C + C.
    """

    Config = GPFConfig
    config: GPFConfig

    def __init__(self, config: GPFConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim = self.backbone.prompt_dim
        bound = math.sqrt(6 / (1 + dim))
        self.prompt = nn.Parameter(torch.empty(1, dim).uniform_(-bound, bound))
        self.head = build_head(self.backbone.dim, task.outputs, config.head_layers)

    def prompts(self, graphs: Graphs, x: Tensor) -> Tensor:
        """(1, D)."""
        return self.prompt.to(x.dtype)
