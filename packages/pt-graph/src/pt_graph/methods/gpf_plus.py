"""GPF-plus: every node gets its own mixture of k learned vectors (Fang et al., NeurIPS 2023, arXiv 2209.15240)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from pt_core import Backbone, Task
from pt_core.prompts import overlaid
from torch import Tensor, nn

from pt_graph.graphs.batch import Graphs
from pt_graph.method import FeaturePrompt, FrozenMode
from pt_graph.networks.head import build_head

ID = "gpf_plus"
TITLE = "Universal Prompt Tuning for Graph Neural Networks (GPF-plus)"
TUNES = "k vectors mixed per node by attention, and a head"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class GPFPlusConfig:
    bases: Annotated[int, Ge(1)] = 5
    """k, vectors to mix (published: 5, 10 or 20 per data set)."""
    head_layers: Annotated[int, Ge(1)] = 1
    """Layers of the head (published: 1 to 4 per data set)."""
    frozen_mode: FrozenMode = "eval"
    """The GNN while training: as in evaluation (eval), with its dropout on (dropout), or published: BatchNorm drifts too (train; results
    then depend on how a batch is cut)."""


class GPFPlus(FeaturePrompt):
    """x'_v = x_v + sum_j alpha_vj P_j, alpha_v = softmax over the k bases of (W x_v + b), on the unprompted x_v.

    P (k, D) starts uniform in +- sqrt(6 / (k + D)). Parameters: 2 k D + k + (layers - 1)(d^2 + d) + d C + C.
    """

    Config = GPFPlusConfig
    config: GPFPlusConfig

    def __init__(self, config: GPFPlusConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim, bases = self.backbone.prompt_dim, config.bases
        bound = math.sqrt(6 / (bases + dim))
        self.prompt = nn.Parameter(torch.empty(bases, dim).uniform_(-bound, bound))
        self.attention = nn.Linear(dim, bases)
        self.head = build_head(self.backbone.dim, task.outputs, config.head_layers)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """With more bases the new ones are fresh."""
        return overlaid(tensor, self.own_tensors()[name]) if name.startswith(("prompt", "attention.")) else None

    def prompts(self, graphs: Graphs, x: Tensor) -> Tensor:
        """(node, D) from unprompted features (node, D)."""
        return self.attention(self.own_precision(x)).softmax(-1) @ self.prompt
