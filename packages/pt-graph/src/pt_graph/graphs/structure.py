"""Message passing over a fixed batch of graphs: sums over incoming edges as one sparse product.

What depends on the edges alone (sparse matrices, degrees, counts of bond types) is computed once and serves every layer and every
forward on that batch: an episode of RELIEF runs the same graphs n times.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from pt_core.kernels._mode import fast_paths_enabled
from torch import Tensor

SELF_LOOP = 4
"""Bond type of the self-loops of the molecular family."""
BOND_TYPES, BOND_DIRECTIONS = 6, 3
Loops = Literal["own", "one", "more"]
"""Self-loops of a view: those that the graphs have (`own`), exactly one per node, whatever the graphs have (`one`: PyG's GCN and GAT), or
one per node besides those that the graphs have (`more`: the molecular family)."""


class Structure:
    """Edges of a batch as a receiver-by-sender matrix.

    Args:
        edge_index: (2, edge) source, target.
        edge_attr: (edge, 2) bond type and direction, or None.
        nodes: number of nodes.
        graph: (node,) number of each node's graph, for networks that normalise over a graph.
    """

    def __init__(self, edge_index: Tensor, edge_attr: Tensor | None, nodes: int, graph: Tensor | None = None) -> None:
        self.edge_index, self.edge_attr, self.nodes, self.graph = edge_index, edge_attr, nodes, graph
        self._views: dict[Loops, View] = {}

    def view(self, loops: Loops) -> View:
        """The edges with these self-loops; made once."""
        if loops not in self._views:
            self._views[loops] = View(self.edge_index, self.edge_attr, self.nodes, loops)
        return self._views[loops]

    def prefix(self, nodes: int, edges: int) -> Structure:
        attributes = None if self.edge_attr is None else self.edge_attr[:edges]
        cut = Structure(
            self.edge_index[:, :edges], attributes, nodes, None if self.graph is None else self.graph[:nodes]
        )
        cut._views = {loops: view.prefix(nodes, edges) for loops, view in self._views.items()}
        return cut


class View:
    """One way to see the edges.

    Attributes:
        source, target: (edge,) node numbers, self-loops that were added behind the graph's own edges.
        bond, direction: (edge,) categories, added self-loops of type 4 and direction 0; None without edge attributes.
        kept: (edge,) which of them take part; None where all do. Own loops that one of each node's replaces have weight 0, so that shapes
            do not depend on values.
    """

    def __init__(self, edge_index: Tensor, edge_attr: Tensor | None, nodes: int, loops: Loops) -> None:
        self.nodes, self.loops = nodes, loops
        added = edge_index.new_empty(0) if loops == "own" else torch.arange(nodes, device=edge_index.device)
        self.kept = None
        if loops == "one":
            self.kept = torch.cat([edge_index[0] != edge_index[1], torch.ones_like(added, dtype=torch.bool)])
        self.source, self.target = torch.cat([edge_index[0], added]), torch.cat([edge_index[1], added])
        self.bond = self.direction = None
        if edge_attr is not None:
            self.bond = torch.cat([edge_attr[:, 0], torch.full_like(added, SELF_LOOP)])
            self.direction = torch.cat([edge_attr[:, 1], torch.zeros_like(added)])
        self._weights: dict[str, Tensor] = {}
        self._sparse: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def weights(self, kind: str) -> Tensor:
        """(edge,) factor of each message: `sum` 1, `mean` 1 / in-degree, (degree of source * of target)^-1/2 with the in-degree as in PyG
        (`symmetric`) or with the out-degree as in the molecular family's code (`symmetric_out`)."""
        if kind not in self._weights:
            one = torch.ones(len(self.source), device=self.source.device) if self.kept is None else self.kept.float()
            if kind == "sum":
                value = one
            elif kind == "mean":
                value = one / self._degree(self.target, one).clamp(min=1)[self.target]
            else:
                ends = self.target if kind == "symmetric" else self.source
                scale = self._degree(ends, one).clamp(min=1).rsqrt()
                value = one * scale[self.source] * scale[self.target]
            self._weights[kind] = value
        return self._weights[kind]

    def _degree(self, ends: Tensor, one: Tensor) -> Tensor:
        return torch.zeros(self.nodes, device=ends.device).index_add(0, ends, one)

    def gather(self, hidden: Tensor, kind: str) -> Tensor:
        """(node, dim): sum over incoming edges of weight * hidden[source]."""
        if fast_paths_enabled() and type(self.source) is Tensor and hidden.dtype in (torch.float32, torch.float64):
            back = self._matrix(kind, hidden.dtype, transposed=True) if hidden.requires_grad else None
            result: Tensor = _Product.apply(hidden, self._matrix(kind, hidden.dtype), back)
            return result
        messages = hidden[self.source] * self.weights(kind).to(hidden.dtype)[:, None]
        return hidden.new_zeros(self.nodes, hidden.shape[1]).index_add(0, self.target, messages)

    def gather_bonds(self, bonds: Tensor, directions: Tensor, kind: str) -> Tensor:
        """(node, dim): sum over incoming edges of weight * (bonds[type] + directions[direction]).

        A node's edges have at most 6 types and 3 directions, so their weighted counts times the tables give the sum without a row
        per edge.
        """
        assert self.bond is not None
        assert self.direction is not None
        if not fast_paths_enabled():
            edges = (bonds[self.bond] + directions[self.direction]) * self.weights(kind).to(bonds.dtype)[:, None]
            return bonds.new_zeros(self.nodes, bonds.shape[1]).index_add(0, self.target, edges)
        if kind not in self._counts:
            counts = torch.zeros(self.nodes * (BOND_TYPES + BOND_DIRECTIONS), device=self.source.device)
            row = self.target * (BOND_TYPES + BOND_DIRECTIONS)
            counts = counts.index_add(0, row + self.bond, self.weights(kind))
            counts = counts.index_add(0, row + BOND_TYPES + self.direction, self.weights(kind))
            self._counts[kind] = counts.view(self.nodes, -1)
        return self._counts[kind].to(bonds.dtype) @ torch.cat([bonds, directions])

    def _matrix(self, kind: str, dtype: torch.dtype, transposed: bool = False) -> Tensor:
        key = f"{kind}/{dtype}/{transposed}"
        if key not in self._sparse:
            row, column = (self.source, self.target) if transposed else (self.target, self.source)
            order = torch.argsort(row, stable=True)
            index = torch.int32 if row.device.type == "cpu" else torch.int64
            counts = self._degree(row, torch.ones(len(order), device=order.device))
            rows = torch.cat([counts.new_zeros(1), counts.double().cumsum(0)]).to(index)
            self._sparse[key] = _csr(rows, column[order].to(index), self.weights(kind)[order].to(dtype), self.nodes)
        return self._sparse[key]

    def prefix(self, nodes: int, edges: int) -> View:
        """The view of the first `nodes` nodes, which send and receive `edges` edges among themselves."""
        cut = object.__new__(View)
        cut.nodes, cut.loops = nodes, self.loops
        own = len(self.source) - (0 if self.loops == "own" else self.nodes)

        def pick(values: Tensor) -> Tensor:
            return values[:edges] if self.loops == "own" else torch.cat([values[:edges], values[own : own + nodes]])

        cut.source, cut.target = pick(self.source), pick(self.target)
        cut.kept = None if self.kept is None else pick(self.kept)
        cut.bond = None if self.bond is None else pick(self.bond)
        cut.direction = None if self.direction is None else pick(self.direction)
        cut._weights = {kind: pick(value) for kind, value in self._weights.items()}
        cut._counts = {kind: value[:nodes] for kind, value in self._counts.items()}
        cut._sparse = {}
        for key, matrix in self._sparse.items():
            rows = matrix.crow_indices()[: nodes + 1]
            last = int(rows[-1])
            cut._sparse[key] = _csr(rows, matrix.col_indices()[:last], matrix.values()[:last], nodes)
        return cut


class _Product(torch.autograd.Function):
    """matrix @ hidden; the gradient is the transposed matrix times the incoming one. Sparse products have no half-precision form, so
    autocast is off in both directions."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, matrix: Tensor, back: Tensor | None) -> Tensor:
        ctx.matrix, ctx.back = matrix, back
        with torch.autocast(hidden.device.type, enabled=False):
            return matrix @ hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return _Product.apply(gradient, ctx.back, ctx.matrix), None, None


def _csr(rows: Tensor, columns: Tensor, values: Tensor, nodes: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(rows, columns, values, (nodes, nodes), check_invariants=False)
