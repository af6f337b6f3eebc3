"""Full fine-tuning: every weight of a copy of the GNN is trained, with a head. The upper end of the parameter axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge
from pt_core import Backbone, Batch, Stage, Task
from torch import Tensor

from pt_graph.method import RECIPE, GraphMethod
from pt_graph.networks.head import build_head

ID = "full"
TITLE = "Full fine-tuning (baseline)"
TUNES = "every weight of the GNN and a head"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class FullConfig:
    head_layers: Annotated[int, Ge(1)] = 1
    """Layers of the head."""
    stochastic: bool = False
    """Train mode as is usual for these networks: dropout on, BatchNorm over the batch (needs more steps than 50 shots give). Results then
    depend on how a batch is cut (--accumulate, several processes)."""


class FullFineTuning(GraphMethod):
    """logits = head( mean_v GNN'(G)_v ), where GNN' starts as a copy of the frozen network.

    Parameters: |GNN| + (layers - 1)(d^2 + d) + d C + C.
    """

    Config = FullConfig
    recipe = RECIPE
    config: FullConfig

    def __init__(self, config: FullConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.claimed = self.backbone.claim("*", buffers=True)
        self.claimed.stochastic = config.stochastic
        self.coupled = config.stochastic  # BatchNorm
        self.head = build_head(self.backbone.dim, task.outputs, config.head_layers)

    def stages(self, ctx: Any) -> Iterator[Stage]:
        yield Stage("train", tracks=("claimed.*",))

    def forward(self, batch: Batch) -> Tensor:
        """(graph, output) logits."""
        return self.head(self.own_precision(batch.inputs.mean(self.backbone.nodes(batch.inputs, weights=self.claimed))))
