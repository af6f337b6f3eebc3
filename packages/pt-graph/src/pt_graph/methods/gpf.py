"""GPF: one learned vector is added to the features of every node (Fang et al., NeurIPS 2023, arXiv 2209.15240)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from pt_core import Add, Backbone, Batch, Task
from torch import Tensor, nn

from pt_graph.graphs import Graphs
from pt_graph.heads import build_head
from pt_graph.method import FrozenMode, GraphMethod

ID = "gpf"
TITLE = "Universal Prompt Tuning for Graph Neural Networks (GPF)"
TUNES = "one vector for all nodes, and a head"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class GPFConfig:
    head_layers: Annotated[int, Ge(1)] = 1
    """Layers of the head (published: 1 to 4 per data set)."""
    frozen_mode: FrozenMode = "eval"
    """The GNN while training: as in evaluation (eval), with its dropout on (dropout), or published: BatchNorm drifts too (train)."""


class GPF(GraphMethod):
    """x'_v = x_v + p for every node v, behind the atom embedding and before the first layer; logits = head( mean_v GNN(G, x')_v ).

    p (1, D) starts uniform in +- sqrt(6 / (1 + D)). Parameters: D + (layers - 1)(d^2 + d) + d C + C.
    """

    Config = GPFConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "batch_size": 32,
        "epochs": 100,
        "select": False,  # the last epoch is evaluated
    }
    config: GPFConfig

    def __init__(self, config: GPFConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim = self.backbone.prompt_dim
        bound = math.sqrt(6 / (1 + dim))
        self.prompt = nn.Parameter(torch.empty(1, dim).uniform_(-bound, bound))
        self.head = build_head(self.backbone.dim, task.outputs, config.head_layers)

    def forward(self, batch: Batch) -> Tensor:
        """(graph, output) logits."""
        nodes = self.nodes(batch.inputs, {"input": Add(lambda x, _: self.prompt.to(x.dtype))})
        return self.head(batch.inputs.mean(nodes))

    def node_prompts(self, graphs: Graphs, batch: Batch) -> Tensor:
        return self.prompt.expand(graphs.nodes, -1)
