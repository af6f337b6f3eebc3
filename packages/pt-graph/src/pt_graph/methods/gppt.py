"""GPPT: classes are link targets. Structure tokens say which cluster a node lies in, task tokens what that means (KDD 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Batch, Stage, StepOutput, Task
from pt_core.errors import ConfigError, DataError
from torch import Tensor, nn

from pt_graph.method import GraphMethod

ID = "gppt"
TITLE = "GPPT: Graph Pre-training and Prompt Tuning to Generalize Graph Neural Networks"
TUNES = "a linear map per cluster of nodes"
NEEDS = {"train": "labelled nodes (or graphs), several classes"}


@dataclass(frozen=True)
class GPPTConfig:
    centres: Annotated[int, Ge(1)] | None = None
    """k, structure tokens (default: the number of classes)."""
    orthogonality: Annotated[float, Ge(0)] = 1e-3
    """Weight of the mean over tokens of |E E^T - I|_F."""
    read: Literal["centre", "mean"] = "centre"
    """h of the target node (node 0 of node tasks), or the mean of all nodes (graph tasks)."""


class GPPT(GraphMethod):
    """h = mean of GNN(G) over the node and its neighbours; k = argmax_k h . c_k;  logits = E_k h.

    The c are k-means centres of the training h, E_k (C, d) starts from the class means. The published code runs k-means again over all h
    after each step; here the GNN is frozen and its input fixed, so the h never change and one run is enough; it uses training nodes only.

    Parameters: k C d.
    """

    Config = GPPTConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 5e-4,
        "schedule": "constant",
        "epochs": 100,
    }
    class_tensors = ("task_tokens", "structure_tokens")
    config: GPPTConfig
    structure_tokens: Tensor

    def __init__(self, config: GPPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if len(task.class_names()) < 2:
            raise ConfigError("gppt needs one of several classes per node or graph; these data have yes/no properties")
        count = config.centres or task.outputs
        self.task_tokens = nn.Parameter(torch.zeros(count, task.outputs, self.backbone.dim))
        self.register_buffer("structure_tokens", torch.zeros(count, self.backbone.dim))

    def frozen_key(self) -> str:
        return f"gppt/{self.config.read}"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(graph, d): h."""
        graphs = batch.inputs
        nodes = self.nodes(graphs, noisy=False)
        smooth = graphs.structure.view("more").gather(nodes, "mean")
        return smooth[graphs.starts] if self.config.read == "centre" else graphs.mean(smooth)

    def smoothed(self, batch: Batch) -> Tensor:
        pooled = batch.extra.get("frozen")
        return (self.frozen_part(batch) if pooled is None else pooled).float()

    def forward(self, batch: Batch) -> Tensor:
        """(graph, class) logits."""
        h = self.smoothed(batch)
        token = (h @ self.structure_tokens.T).argmax(1)
        return torch.einsum("gcd,gd->gc", self.task_tokens[token], h)

    def training_step(self, batch: Batch) -> StepOutput:
        loss, count = self.task.loss(self(batch), batch)
        gram = self.task_tokens @ self.task_tokens.transpose(1, 2)
        distance = torch.linalg.matrix_norm(gram - torch.eye(gram.shape[-1], device=gram.device)).mean()
        return StepOutput(loss + self.config.orthogonality * distance, count, {"orthogonality": distance.detach()})

    def stages(self, ctx: Any) -> Iterator[Stage]:
        yield Stage("tokens", trains=("task_tokens",), tracks=("structure_tokens",), streams={}, run=self.start)
        yield Stage("train")

    @torch.no_grad()
    def start(self, ctx: Any) -> None:
        """k-means centres of the training h, and class means for every task token.

        Raises:
            DataError: fewer training graphs than centres, or a class without one.
        """
        from sklearn.cluster import KMeans

        rows = [(self.smoothed(batch), batch.target) for batch in ctx.batches("train")]
        h, target = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
        if len(self.structure_tokens) > len(h):
            raise DataError(
                f"{len(self.structure_tokens)} centres need as many training graphs, there are {len(h)}; lower --centres"
            )
        absent = [name for number, name in enumerate(self.task.class_names()) if not bool((target == number).any())]
        if absent:
            raise DataError(f"no training graph of class {', '.join(absent[:4])}: every class needs one for its token")
        found = KMeans(len(self.structure_tokens), n_init=10, random_state=0).fit(h.cpu().double().numpy())
        self.structure_tokens.copy_(torch.from_numpy(found.cluster_centers_))
        means = torch.stack([h[target == number].mean(0) for number in range(self.task.outputs)])
        self.task_tokens.copy_(means.expand_as(self.task_tokens))
