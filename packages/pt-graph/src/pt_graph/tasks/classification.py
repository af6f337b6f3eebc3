"""One of several classes per graph, or per node (a node is seen as the graph around it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pt_core.data import Batch
from pt_core.errors import ArtifactError
from pt_core.run.tasks.classification import Classification
from pt_core.task import Evaluator, Predictions
from torch import Tensor
from torch.nn import functional as F

from pt_graph.tasks.means import WithMeans, further

MAX_NODES = 1_000_000
"""Nodes of the largest graph that a card may speak of."""


class GraphClassification(Classification):
    """Core's classification, with the loss of every graph for itself (RELIEF's reward) and further predicted values as metrics.

    Attributes:
        largest: nodes of the largest graph of the data, where known.
    """

    largest: int | None = None

    def sample_losses(self, output: Tensor, target: Tensor, masked: bool = True) -> Tensor:
        """(graph,) cross-entropy; every graph has a label, so there is nothing to mask."""
        return F.cross_entropy(output, target, reduction="none")

    def labelled(self, target: Tensor) -> Tensor:
        return torch.ones(len(target), dtype=torch.bool, device=target.device)

    def slots(self) -> list[str]:
        """What prototypes stand for: the classes."""
        return list(self.labels)

    def membership(self, target: Tensor) -> Tensor:
        """(graph, slot) 1 where a graph belongs to a slot."""
        return F.one_hot(target, self.outputs).float()

    def compare(self, scores: Tensor) -> Tensor:
        """(graph, slot) scores are the logits."""
        return scores

    def evaluator(self) -> Evaluator:
        return WithMeans(super().evaluator())

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        rows = super().records(predictions, batch)
        return [row | further(predictions, number) for number, row in enumerate(rows)]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "largest": self.largest}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> GraphClassification:
        largest = spec.get("largest")
        if largest is not None and not (isinstance(largest, int) and 0 < largest <= MAX_NODES):
            raise ArtifactError("the card's task has a largest graph that is no number of nodes")
        task = super().from_json({key: value for key, value in spec.items() if key != "largest"})
        assert isinstance(task, GraphClassification)
        task.largest = largest
        return task
