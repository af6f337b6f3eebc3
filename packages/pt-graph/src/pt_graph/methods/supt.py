"""SUPT: prompts for learned subgraphs, chosen by a graph convolution (as re-implemented in ProG, the only source that could be read)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from pt_core import Backbone, Task
from pt_core.prompts import overlaid
from torch import Tensor, nn

from pt_graph.graphs.batch import Graphs
from pt_graph.method import FeaturePrompt, FrozenMode
from pt_graph.networks.head import build_head

ID = "supt"
TITLE = "Subgraph-level Universal Prompt Tuning (SUPT)"
TUNES = "k vectors for subgraphs found by a graph convolution, and a head"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class SUPTConfig:
    variant: Literal["soft", "hard"] = "soft"
    """`soft` mixes the k vectors per node; `hard` gives each vector to the best-scoring share of every graph's nodes."""
    bases: Annotated[int, Ge(1)] | None = None
    """k (default: 10 soft, 5 hard)."""
    ratio: Annotated[float, Gt(0), Le(1)] = 0.5
    """r, share of nodes per vector (hard)."""
    head_layers: Annotated[int, Ge(1)] = 1
    """Layers of the head."""
    frozen_mode: FrozenMode = "eval"
    """The GNN while training: as in evaluation (eval), with its dropout on (dropout), or published: BatchNorm drifts too (train; results
    then depend on how a batch is cut)."""


class SUPT(FeaturePrompt):
    """With u = X + sum_j C_j and scores s (node, k) of one graph convolution (symmetric normalisation, self-loops) of u:

    soft  X' = X + softmax_k(s) C
    hard  s = tanh(s); vector j goes to the ceil(r n_b) nodes of graph b with the largest s_vj: p_v += s_vj C_j, c_v += 1, c_v starts
          at 1;  X' = X + p_v / c_v

    C (k, D) starts uniform in +- sqrt(6 / (k + D)). Parameters: k D + D k + k + (layers - 1)(d^2 + d) + d C + C.
    """

    Config = SUPTConfig
    config: SUPTConfig

    def __init__(self, config: SUPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim = self.backbone.prompt_dim
        bases = config.bases or (10 if config.variant == "soft" else 5)
        bound = math.sqrt(6 / (bases + dim))
        self.prompt = nn.Parameter(torch.empty(bases, dim).uniform_(-bound, bound))
        self.score = nn.Linear(dim, bases, bias=False)
        nn.init.xavier_uniform_(self.score.weight)
        self.bias = nn.Parameter(torch.zeros(bases))
        self.head = build_head(self.backbone.dim, task.outputs, config.head_layers)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """With more vectors the new ones are fresh."""
        return overlaid(tensor, self.own_tensors()[name]) if name in ("prompt", "score.weight", "bias") else None

    def prompts(self, graphs: Graphs, x: Tensor) -> Tensor:
        """(node, D) from unprompted features (node, D)."""
        mixed = self.score(self.own_precision(x) + self.prompt.sum(0))
        scores = graphs.structure.view("one").gather(self.own_precision(mixed), "symmetric") + self.bias
        if self.config.variant == "soft":
            return scores.softmax(-1) @ self.prompt
        scores = scores.tanh()
        chosen = best_nodes(scores.detach(), graphs, self.config.ratio)
        return ((scores * chosen) @ self.prompt) / (1 + chosen.sum(1, keepdim=True))


def best_nodes(scores: Tensor, graphs: Graphs, ratio: float) -> Tensor:
    """(node, k) 1 where a node is among the ceil(r n) best of its graph; of equal scores the earlier node is."""
    chosen = torch.zeros_like(scores)
    for first, size in zip(graphs.starts.tolist(), graphs.sizes.tolist(), strict=True):
        own = scores[first : first + size]
        rows = torch.argsort(own, stable=True, dim=0, descending=True)[: math.ceil(ratio * size)]
        chosen[first : first + size].scatter_(0, rows, 1.0)
    return chosen
