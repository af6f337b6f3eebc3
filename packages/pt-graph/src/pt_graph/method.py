"""The base of pt-graph's methods: a `Method` whose backbone reads graphs, and what "frozen" means while it trains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, cast

from pt_core import Add, Backbone, Batch, Claim, Edits, Layout, Method, Stage, Task
from torch import Tensor, nn

from pt_graph.graphs.batch import Graphs
from pt_graph.networks.backbone import GraphBackbone

FrozenMode = Literal["eval", "dropout", "train"]
"""How the frozen network runs in a training forward.

`eval`: as in evaluation. `dropout`: its dropout behind every layer is on, drawn for every node of a sample, BatchNorm keeps its statistics.
`train`: the published code's model.train(): all dropout on, BatchNorm normalises by the batch, and copies of its running statistics drift
with the training data (they are saved with the tuned tensors; the backbone itself stays as it was). Only `train` depends on how a batch is
cut.

The default is `eval`. On the pretrained 5-layer GCN (50 shots of BBBP, 60 epochs of GPF, one seed) it reached a validation ROC-AUC of 0.91,
`dropout` 0.25 and `train` 0.53: these networks were pretrained without dropout, and what the head learns under it does not carry over.
"""


RECIPE: Mapping[str, Any] = {
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "batch_size": 32,
}
"""How the feature prompts and their baselines train; a method adds what it does otherwise."""


class GraphMethod(Method):
    """Adds the type of the backbone and the frozen modes."""

    class_tensors: tuple[str, ...] | None = ("head.*",)
    frozen_mode: FrozenMode = "eval"
    statistics: Claim

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.frozen_mode = getattr(config, "frozen_mode", "eval")
        if self.frozen_mode == "train":
            self.statistics = Claim({}, dict(self.backbone.module.named_buffers()))
            self.coupled = True  # BatchNorm over the batch

    @property
    def backbone(self) -> GraphBackbone:
        return cast(GraphBackbone, self.backbones["backbone"])

    def nodes(self, graphs: Graphs, edits: Edits | None = None, noisy: bool | None = None) -> Tensor:
        """(node, d) node embeddings; `noisy` (default: while training) runs the network in its frozen mode."""
        noisy = self.training if noisy is None else noisy
        if self.frozen_mode == "train":
            self.statistics.stochastic = noisy
            return self.backbone.nodes(graphs, edits, self.statistics)
        with self.backbone.dropout(noisy and self.frozen_mode == "dropout"):
            return self.backbone.nodes(graphs, edits)

    def stages(self, ctx: Any) -> Iterator[Stage]:
        yield Stage("train", tracks=self.tracked())

    def tracked(self) -> tuple[str, ...]:
        return ("statistics.*",) if self.frozen_mode == "train" else ()

    def node_prompts(self, graphs: Graphs, batch: Batch) -> Tensor | None:
        """(node, D) what is added to the features of each node, for the report; None where nothing is."""
        return None


class FeaturePrompt(GraphMethod):
    """x'_v = x_v + p_v for every node v, behind the atom embedding and before the first layer; logits = head( mean_v GNN(G, x')_v ).

    A method says what p_v is.
    """

    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "epochs": 100, "select": False}  # the last epoch is evaluated
    head: nn.Module

    @abstractmethod
    def prompts(self, graphs: Graphs, x: Tensor) -> Tensor:
        """(node, D), or (1, D) for all nodes, from unprompted features (node, D)."""

    def forward(self, batch: Batch) -> Tensor:
        """(graph, output) logits."""
        nodes = self.nodes(batch.inputs, {"input": Add(lambda x, _: self.prompts(batch.inputs, x))})
        logits: Tensor = self.head(self.own_precision(batch.inputs.mean(nodes)))
        return logits

    def node_prompts(self, graphs: Graphs, batch: Batch) -> Tensor:
        return self.prompts(graphs, self.backbone.embed(graphs).x).expand(graphs.nodes, -1)


def constant(prompts: Tensor) -> Callable[[Tensor, Layout], Tensor]:
    """The function of an `Add` edit that gives `prompts`, whatever the features are."""
    return lambda hidden, layout: prompts
