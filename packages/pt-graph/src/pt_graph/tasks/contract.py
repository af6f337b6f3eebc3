"""What methods here need of a task besides core's contract."""

from __future__ import annotations

from typing import Any, Protocol

from pt_core.data import Batch
from torch import Tensor


class GraphTask(Protocol):
    """Losses per graph (RELIEF), and prototypes (GraphPrompt)."""

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
