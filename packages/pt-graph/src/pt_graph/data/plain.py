"""What a graph network is called with, as a batch of graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pt_core.data import Batch
from pt_core.errors import DataError
from torch import Tensor

from pt_graph.graphs.batch import Graphs
from pt_graph.graphs.checks import bonds_of, edges_of

NAMES = ("x", "edge_index", "edge_attr", "batch")
USAGE = "give a PyG Data or Batch, or x, edge_index, edge_attr of molecules, and batch where there are several graphs"


def plain_batch(inputs: Sequence[Any], named: Mapping[str, Any]) -> Batch:
    """An unlabelled batch from `Graphs`, from an object with x and edge_index (PyG's Data and Batch), or from these tensors.

    Behind x and edge_index a tensor with one axis is the number of each node's graph, one with two axes describes the edges.

    Raises:
        TypeError: something else.
        DataError: nodes of one graph are not next to each other, or an edge joins two graphs.
    """
    if len(inputs) == 1 and not named and not isinstance(inputs[0], Tensor):
        graphs = inputs[0] if isinstance(inputs[0], Graphs) else _of_object(inputs[0])
    else:
        graphs = _of_tensors(inputs, named)
    rows = torch.arange(len(graphs), device=graphs.x.device)
    return Batch(graphs, None, rows, [str(row) for row in range(len(graphs))])


def _of_object(data: Any) -> Graphs:
    x, edge_index, edge_attr, batch = (getattr(data, name, None) for name in NAMES)
    if not isinstance(x, Tensor) or not isinstance(edge_index, Tensor):
        raise TypeError(f"a {type(data).__name__} has no x and edge_index; {USAGE}")
    if getattr(data, "edge_weight", None) is not None:
        raise DataError("weights of edges (edge_weight) are not supported; leave them out")
    return graphs_of(x, edge_index, None if x.is_floating_point() else edge_attr, batch)


def _of_tensors(inputs: Sequence[Any], named: Mapping[str, Any]) -> Graphs:
    given = dict(named)
    for position, value in enumerate(inputs):
        name = NAMES[position] if position < 2 else "batch" if getattr(value, "ndim", 2) == 1 else "edge_attr"
        if name in given:
            raise TypeError(f"graph networks take {name} once; {USAGE}")
        given[name] = value
    given = {name: value for name, value in given.items() if value is not None}
    wrong = sorted(set(given) - set(NAMES))
    if wrong or not {"x", "edge_index"} <= set(given) or not all(isinstance(one, Tensor) for one in given.values()):
        raise TypeError(f"graph networks take no {wrong[0]}; {USAGE}" if wrong else USAGE)
    if "edge_attr" in given and given["x"].is_floating_point():
        raise TypeError("edge_attr describes the bonds of atoms (int64 x); networks of float features take none")
    return graphs_of(**given)


def graphs_of(x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, batch: Tensor | None = None) -> Graphs:
    """Graphs with the edges of each next to each other.

    Args:
        batch: (node,) number of every node's graph; None where all are one graph.

    Raises:
        DataError: nodes of one graph are not next to each other, an edge joins two graphs, or edges or bonds are of another form.
    """
    edge_index = edges_of(edge_index, len(x), "the call")
    edge_attr = None if edge_attr is None else bonds_of(edge_attr, edge_index.shape[1], "the call")
    owner = torch.zeros(len(x), dtype=torch.long, device=x.device) if batch is None else batch
    if len(owner) != len(x) or bool((owner.diff() < 0).any()):
        raise DataError("batch needs the number of every node's graph, nodes of one graph next to each other")
    source, target = owner[edge_index[0]], owner[edge_index[1]]
    if not torch.equal(source, target):
        raise DataError("an edge joins nodes of two graphs")
    order = torch.argsort(source, stable=True)
    count = int(owner[-1]) + 1 if len(owner) else 0
    sizes, edges = (torch.bincount(part, minlength=count) for part in (owner, source))
    return Graphs(x, edge_index[:, order], None if edge_attr is None else edge_attr[order], sizes, edges)
