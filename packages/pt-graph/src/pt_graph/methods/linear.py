"""Linear probing: the baseline every graph prompt has to beat. Only a head on the mean frozen node embedding is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from pt_core import Backbone, Batch, Task
from torch import Tensor

from pt_graph.method import RECIPE, GraphMethod
from pt_graph.networks.head import build_head

ID = "linear"
TITLE = "Linear probe on frozen graph embeddings (baseline)"
TUNES = "a head"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class LinearConfig:
    head_layers: Annotated[int, Ge(1)] = 1
    """Layers of the head; more than one makes it an MLP probe."""


class LinearProbe(GraphMethod):
    """logits = head( mean_v GNN(G)_v ). The mean embeddings are computed once per graph.

    Parameters: (layers - 1)(d^2 + d) + d C + C.
    """

    Config = LinearConfig
    recipe = RECIPE
    config: LinearConfig

    def __init__(self, config: LinearConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.head = build_head(self.backbone.dim, task.outputs, config.head_layers)

    def frozen_key(self) -> str:
        return "mean"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(graph, d)."""
        return batch.inputs.mean(self.nodes(batch.inputs, noisy=False))

    def forward(self, batch: Batch) -> Tensor:
        """(graph, output) logits."""
        pooled = batch.extra.get("frozen")
        return self.head(self.own_precision(self.frozen_part(batch) if pooled is None else pooled))
