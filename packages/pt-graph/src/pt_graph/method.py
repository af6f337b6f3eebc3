"""The base of pt-graph's methods: a `Method` whose backbone reads graphs, and what "frozen" means while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast

from pt_core import Backbone, Batch, Claim, Edits, Layout, Method, Stage, Task
from torch import Tensor

from pt_graph.backbone import GraphBackbone
from pt_graph.graphs import Graphs

FrozenMode = Literal["eval", "dropout", "train"]
"""How the frozen network runs in a training forward.

`eval`: as in evaluation. `dropout`: its dropout is on, BatchNorm keeps its statistics. `train`: the published code's model.train(): dropout
on, BatchNorm normalises by the batch, and copies of its running statistics drift with the training data (they are saved with the tuned
tensors; the backbone itself stays as it was).

The default is `eval`. On the pretrained 5-layer GCN (50 shots of BBBP, 60 epochs of GPF, one seed) it reached a validation ROC-AUC of 0.91,
`dropout` 0.25 and `train` 0.53: these networks were pretrained without dropout, and what the head learns under it does not carry over.
"""


class GraphMethod(Method):
    """Adds the type of the backbone and the frozen modes."""

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


def constant(prompts: Tensor) -> Callable[[Tensor, Layout], Tensor]:
    """The function of an `Add` edit that gives `prompts`, whatever the features are."""
    return lambda hidden, layout: prompts
