"""What is predicted for a graph: yes/no properties, or one of several classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pt_core.data import Batch
from pt_core.errors import ArtifactError
from torch import Tensor

from pt_graph.tasks.binary import BinaryTasks
from pt_graph.tasks.classification import GraphClassification

__all__ = ["BinaryTasks", "GraphClassification", "GraphTask", "task_from_json"]


class GraphTask(Protocol):
    """What methods here need of a task besides the contract: losses per graph (RELIEF), prototypes (GraphPrompt)."""

    outputs: int

    def sample_losses(self, output: Tensor, target: Any, masked: bool = True) -> Tensor:
        """(graph,) loss of each graph, the scale of its reward."""
        ...

    def labelled(self, target: Any) -> Tensor:
        """(graph,) whether a graph has a label at all."""
        ...

    def slots(self) -> list[str]: ...

    def membership(self, target: Any) -> Tensor: ...

    def compare(self, scores: Tensor) -> Tensor: ...

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, int]: ...


def task_from_json(spec: Mapping[str, Any]) -> BinaryTasks | GraphClassification:
    """The task stored in a card.

    Raises:
        ArtifactError: unknown or malformed.
    """
    kinds: dict[str, Any] = {BinaryTasks.name: BinaryTasks, GraphClassification.name: GraphClassification}
    if spec.get("name") not in kinds:
        raise ArtifactError(
            f"the artifact's task {spec.get('name')!r} is unknown to this pt-graph; known: {', '.join(kinds)}"
        )
    task: BinaryTasks | GraphClassification = kinds[spec["name"]].from_json(spec)
    return task
