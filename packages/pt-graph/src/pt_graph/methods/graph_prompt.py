"""GraphPrompt: one vector weighs the embedding dimensions before the readout; a graph gets the class of the nearest prototype (WWW 2023,
arXiv 2302.08043). Prototypes come from the training graphs only (the published evaluation recomputes them from the evaluation labels)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from pt_core import Backbone, Batch, Stage, Task
from pt_core.errors import DataError
from torch import Tensor, nn
from torch.nn import functional as F

from pt_graph.method import GraphMethod

ID = "graph_prompt"
TITLE = "GraphPrompt: Unifying Pre-Training and Downstream Tasks for Graph Neural Networks"
TUNES = "one vector over the embedding dimensions; classes are prototypes"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class GraphPromptConfig:
    temperature: Annotated[float, Gt(0)] = 0.1
    """tau, divides the cosine similarities."""
    readout: Literal["graph", "neighbourhood"] = "graph"
    """Sum over all nodes, or over a target node (node 0 of node tasks) and its neighbours."""
    init: Literal["xavier", "ones"] = "xavier"
    """Start uniform in +- sqrt(6 / (1 + d)) as published, or from the identity."""


class GraphPrompt(GraphMethod):
    """s_x = sum_v p * h_v;  prototype c = mean of s over the training graphs of c;  score_c = cos(s_x, prototype_c) / tau.

    Loss: -log softmax of the true class over all classes; for yes/no properties over the two prototypes of each property. Everything is
    linear in p, so sums and class means of the frozen h are computed once. Parameters: d.
    """

    Config = GraphPromptConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 0.01,
        "weight_decay": 1e-5,
        "schedule": "constant",
        "clip_norm": 8.0,
        "epochs": 100,
        "batch_size": 64,
    }
    class_tensors = ("means",)
    config: GraphPromptConfig
    means: Tensor

    def __init__(self, config: GraphPromptConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim = self.backbone.dim
        self.prompt = nn.Parameter(torch.ones(dim) if config.init == "ones" else xavier(dim))
        self.register_buffer("means", torch.zeros(len(task.slots()), dim))  # type: ignore[attr-defined]

    def frozen_key(self) -> str:
        return f"sum/{self.config.readout}"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(graph, d): sum of the frozen node embeddings."""
        graphs = batch.inputs
        nodes = self.nodes(graphs, noisy=False)
        if self.config.readout == "graph":
            return graphs.sum(nodes)
        return (graphs.structure.view("own").gather(nodes, "sum") + nodes)[graphs.starts]

    def summed(self, batch: Batch) -> Tensor:
        pooled = batch.extra.get("frozen")
        return (self.frozen_part(batch) if pooled is None else pooled).float()

    def forward(self, batch: Batch) -> Tensor:
        """(graph, output) logits."""
        own = F.normalize(self.prompt * self.summed(batch), dim=-1)
        classes = F.normalize(self.prompt * self.means, dim=-1)
        return self.task.compare(own @ classes.T / self.config.temperature)  # type: ignore[attr-defined]

    def stages(self, ctx: Any) -> Iterator[Stage]:
        yield Stage("prototypes", trains=(), tracks=("means",), streams={}, run=self.collect)
        yield Stage("train")

    @torch.no_grad()
    def collect(self, ctx: Any) -> None:
        """Class means of the summed embeddings over the training graphs.

        Raises:
            DataError: a class without a training graph.
        """
        totals, counts = torch.zeros_like(self.means), torch.zeros(len(self.means), device=self.means.device)
        for batch in ctx.batches("train"):
            member = self.task.membership(batch.target)  # type: ignore[attr-defined]
            totals += member.T @ self.summed(batch)
            counts += member.sum(0)
        absent = [name for name, count in zip(self.task.slots(), counts.tolist(), strict=True) if not count]  # type: ignore[attr-defined]
        if absent:
            raise DataError(f"no training graph of {', '.join(absent[:4])}: every class needs one for its prototype")
        self.means.copy_(totals / counts[:, None])


def xavier(dim: int) -> Tensor:
    """(d,) as a 1 x d matrix."""
    return nn.init.xavier_uniform_(torch.empty(1, dim))[0]
