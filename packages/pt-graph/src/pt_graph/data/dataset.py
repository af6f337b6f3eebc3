"""Graph data sets with stable ids, targets and classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pt_core.data import Batch
from pt_core.run.data.labels import relabelled
from torch import Tensor

from pt_graph.graphs.batch import Graphs, collate


@dataclass(eq=False)
class GraphDataset:
    """Graphs with class indices, with binary targets, or without labels.

    Attributes:
        graphs: one graph each.
        ids: their names.
        labels: one class index per graph, or None.
        classes: names of the classes.
        targets: (graph, task) in {-1, 0, +1}, or None.
        tasks: names of the binary properties.
        doubt: why the labels may be amounts (regression) rather than classes, or None.
        notes: sentences on how the data were read.
    """

    graphs: Sequence[Graphs]
    ids: Sequence[str]
    labels: Sequence[int] | None = None
    classes: Sequence[str] = ()
    targets: Tensor | None = None
    tasks: Sequence[str] | None = None
    doubt: str | None = None
    notes: tuple[str, ...] = ()
    augmented: bool = field(default=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Graphs:
        return self.graphs[index]

    def target(self, rows: Sequence[int]) -> Tensor | None:
        """Class indices (graph,), binary targets (graph, task), or None."""
        chosen = list(rows)
        if self.targets is not None:
            return self.targets[chosen]
        return None if self.labels is None else torch.tensor([self.labels[row] for row in chosen])

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        rows = torch.as_tensor(list(index), dtype=torch.long)
        return Batch(collate(list(samples)), self.target(index), rows, [self.ids[i] for i in index])

    def relabel(self, classes: Sequence[str]) -> GraphDataset:
        """The same graphs with class indices into another list of names.

        Raises:
            DataError: a graph's class is not in the list.
        """
        labels = None if self.labels is None else relabelled(self.labels, self.classes, classes)
        return replace(self, classes=list(classes), labels=labels)

    def subset(self, rows: Sequence[int]) -> GraphDataset:
        """Some of the graphs, renumbered."""
        return replace(
            self,
            graphs=[self.graphs[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            labels=None if self.labels is None else [self.labels[row] for row in rows],
            targets=None if self.targets is None else self.targets[list(rows)],
            notes=(),
        )

    def digests(self) -> list[str]:
        """One digest per graph, over features and edges."""
        return [_digest(graph) for graph in self.graphs]

    def identity(self) -> str:
        total = hashlib.sha256(repr((list(self.classes), self.tasks, self.labels)).encode())
        if self.targets is not None:
            total.update(self.targets.numpy().tobytes())
        for digest in self.digests():
            total.update(digest.encode())
        return total.hexdigest()


def _digest(graph: Graphs) -> str:
    parts = [graph.x, graph.edge_index, *([] if graph.edge_attr is None else [graph.edge_attr])]
    content = b"".join(part.contiguous().numpy().tobytes() for part in parts)
    return hashlib.blake2b(repr([tuple(part.shape) for part in parts]).encode() + content, digest_size=12).hexdigest()
