"""Graphs in a batch: what datasets hand out, backbones read and feature prompts act on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pt_graph.graphs.checks import bonds_of, edges_of
from pt_graph.graphs.structure import Structure


@dataclass(frozen=True, eq=False)
class Graphs:
    """A batch of graphs, nodes and edges of one graph next to each other. A single graph is a batch of one.

    Attributes:
        x: (node, column) int64 categories that the backbone embeds, or float features.
        edge_index: (2, edge) source and target of directed edges; node numbers count over the whole batch.
        edge_attr: (edge, 2) int64 bond type and direction, or None.
        sizes: (graph,) nodes of each graph.
        edge_counts: (graph,) edges of each graph.
        embedded: whether `x` is already in the space where prompts live (the backbone then skips its embedding tables).
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None
    sizes: Tensor
    edge_counts: Tensor
    embedded: bool = False
    structure_: Structure | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def nodes(self) -> int:
        return len(self.x)

    @cached_property
    def graph(self) -> Tensor:
        """(node,) graph that each node belongs to."""
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.x.device), self.sizes, output_size=len(self.x)
        )

    @cached_property
    def place(self) -> Tensor:
        """(node,) number of each node within its graph."""
        return torch.arange(len(self.x), device=self.x.device) - self.starts[self.graph]

    @cached_property
    def starts(self) -> Tensor:
        """(graph,) first node of each graph."""
        return self.sizes.cumsum(0) - self.sizes

    @cached_property
    def structure(self) -> Structure:
        """Who receives what from whom; computed once per batch, shared by all layers and forwards."""
        return self.structure_ or Structure(self.edge_index, self.edge_attr, len(self.x), self.graph)

    def mean(self, values: Tensor) -> Tensor:
        """(graph, ...) mean of (node, ...) values over the nodes of each graph; order of summation within a graph is fixed."""
        return self.sum(values) / self.sizes.clamp(min=1)[:, None].to(values.dtype)

    def sum(self, values: Tensor) -> Tensor:
        """(graph, ...) sum of (node, ...) values over the nodes of each graph."""
        return values.new_zeros(len(self), *values.shape[1:]).index_add(0, self.graph, values)

    def with_x(self, x: Tensor, embedded: bool = True) -> Graphs:
        """The same graphs with other node features; keeps what was computed from the edges."""
        return replace(self, x=x, embedded=embedded, structure_=self.structure)

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> Graphs:
        """The hook of `pt_core.data.map_tensors`: moves a batch to a device."""
        edge_attr = None if self.edge_attr is None else fn(self.edge_attr)
        return Graphs(fn(self.x), fn(self.edge_index), edge_attr, fn(self.sizes), fn(self.edge_counts), self.embedded)

    def select_rows(self, rows: Sequence[int]) -> Graphs:
        """Some graphs of the batch, in that order (the hook of `pt_core.data.select_rows`)."""
        parts = list(self.split())
        return collate([parts[row] for row in rows])

    def split(self) -> Iterator[Graphs]:
        """The graphs one by one, with node numbers of their own."""
        first_node = first_edge = 0
        for nodes, edges in zip(self.sizes.tolist(), self.edge_counts.tolist(), strict=True):
            chosen = slice(first_edge, first_edge + edges)
            edge_attr = None if self.edge_attr is None else self.edge_attr[chosen]
            yield Graphs(
                self.x[first_node : first_node + nodes],
                self.edge_index[:, chosen] - first_node,
                edge_attr,
                self.sizes.new_tensor([nodes]),
                self.sizes.new_tensor([edges]),
                self.embedded,
            )
            first_node, first_edge = first_node + nodes, first_edge + edges

    def prefix(self, count: int) -> Graphs:
        """The first `count` graphs; edge structure is cut, not computed anew."""
        if count == len(self):
            return self
        nodes, edges = int(self.sizes[:count].sum()), int(self.edge_counts[:count].sum())
        edge_attr = None if self.edge_attr is None else self.edge_attr[:edges]
        return Graphs(
            self.x[:nodes],
            self.edge_index[:, :edges],
            edge_attr,
            self.sizes[:count],
            self.edge_counts[:count],
            self.embedded,
            self.structure.prefix(nodes, edges),
        )


def single(x: Any, edge_index: Any, edge_attr: Any = None) -> Graphs:
    """One graph from arrays.

    Raises:
        DataError: edges or bonds of another shape or range.
    """
    nodes = torch.as_tensor(x)
    edges = edges_of(edge_index, len(nodes), "a graph")
    attributes = None if edge_attr is None else bonds_of(edge_attr, edges.shape[1], "a graph")
    counts = torch.tensor([edges.shape[1]])
    return Graphs(nodes, edges, attributes, torch.tensor([len(nodes)]), counts)


def collate(graphs: Sequence[Graphs]) -> Graphs:
    """Batches one after the other, as one batch."""
    shift, edges = 0, []
    for one in graphs:
        edges.append(one.edge_index + shift)
        shift += len(one.x)
    attributes = [one.edge_attr for one in graphs]
    return Graphs(
        torch.cat([one.x for one in graphs]),
        torch.cat(edges, 1),
        torch.cat(attributes) if all(a is not None for a in attributes) else None,  # type: ignore[arg-type]
        torch.cat([one.sizes for one in graphs]),
        torch.cat([one.edge_counts for one in graphs]),
        graphs[0].embedded,
    )
