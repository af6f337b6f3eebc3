"""The Backbone contract over graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pt_core.backbone import Add, Backbone, Claim, Edit, Edits, Features, Layout, Replace
from pt_core.errors import UserError
from pt_core.randomness import current_rows, part_keys, sampled_by
from torch import Tensor, nn

from pt_graph.graphs.batch import Graphs
from pt_graph.networks.probe import probe_graphs


class GraphBackbone(Backbone):
    """A frozen GNN.

    Sites: `input`, the node features behind the embedding tables and before the first layer, (node, D); `features`, the node
    embeddings, (node, d). Both are value sites. Node axes run over all graphs of the batch: `Features.tokens` is (node, d).

    Attributes:
        prompt_dim: D, width of the space that feature prompts live in.
        dim: d, width of the node embeddings.
        categorical: whether raw inputs are int64 categories (atoms and bonds) or float features.
    """

    sites = frozenset({"input", "features"})

    def __init__(self, module: nn.Module, source: str, preprocessing: Mapping[str, Any] | None = None) -> None:
        super().__init__(module, source, preprocessing)
        net: Any = module
        self.dim, self.depth, self.prompt_dim = net.dim, net.depth, net.prompt_dim
        self.categorical: bool = net.needs_bonds

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        graphs: Graphs = inputs
        self.check(graphs)
        net: Any = self.module
        hidden = graphs.x if graphs.embedded else net.embed(graphs.x)
        layout = Layout((("node", len(hidden)),))
        hidden = self._edit(hidden.to(self.dtype), layout, edits.get("input", ()))
        drawing = net.training or net.active_dropout > 0
        with sampled_by(node_keys(graphs) if drawing else None):
            hidden = net(hidden, graphs.structure)
        return Features(self._edit(hidden, layout, edits.get("features", ())), layout)

    def _edit(self, hidden: Tensor, layout: Layout, edits: tuple[Edit, ...]) -> Tensor:
        for edit in edits:
            if isinstance(edit, Add):
                value = edit.fn(hidden, layout)
                if value.shape[-1] != hidden.shape[-1]:
                    raise UserError(
                        f"a prompt of width {value.shape[-1]} cannot be added to features of width {hidden.shape[-1]} "
                        f"of {self.source!r}"
                    )
                hidden = hidden + value.to(hidden.dtype)
            elif isinstance(edit, Replace):
                hidden = edit.fn(hidden, layout)
        return hidden

    def check(self, graphs: Graphs) -> None:
        """Refuse inputs that are not of this network's kind."""
        real = type(graphs.sizes) is Tensor  # the budget counts with fake tensors, which have no values
        if real and not (len(graphs) and bool((graphs.sizes > 0).all())):
            raise UserError("a graph has no nodes; remove it")
        if graphs.embedded:
            if not graphs.x.is_floating_point():
                raise UserError("feature prompts act on float features: embed the categories first (backbone.embed)")
        elif self.categorical and (graphs.x.is_floating_point() or graphs.edge_attr is None):
            raise UserError(
                f"{self.source!r} reads atoms and bonds (int64 categories), the data have "
                f"{'float features' if graphs.x.is_floating_point() else 'no bonds'}; use a file: or pyg: backbone"
            )
        elif not self.categorical and not graphs.x.is_floating_point():
            raise UserError(
                f"{self.source!r} reads float node features, the data have categories: embed them first "
                "(molecules need a molecular backbone such as builtin:gin_molecules)"
            )
        width = graphs.x.shape[1]
        if (graphs.embedded or not self.categorical) and width != self.prompt_dim:
            raise UserError(f"the node features have width {width}, {self.source!r} reads width {self.prompt_dim}")

    def probe(self) -> Graphs:
        return probe_graphs(None if self.categorical else self.prompt_dim)

    def embed(self, graphs: Graphs) -> Graphs:
        """The graphs with features in the space where prompts live."""
        if graphs.embedded:
            return graphs
        self.check(graphs)
        net: Any = self.module
        return graphs.with_x(net.embed(graphs.x).to(self.dtype))

    def nodes(self, graphs: Graphs, edits: Edits | None = None, weights: Claim | None = None) -> Tensor:
        """(node, d) node embeddings in float32 or wider."""
        tokens = self(graphs, edits, weights=weights).tokens
        return tokens if tokens.element_size() >= 4 else tokens.float()

    @contextmanager
    def dropout(self, active: bool = True) -> Iterator[None]:
        """Inside, the network's own dropout behind its layers is on; BatchNorm still uses (and keeps) its running statistics."""
        net: Any = self.module
        before = net.active_dropout
        net.active_dropout = net.dropout if active else 0.0
        try:
            yield
        finally:
            net.active_dropout = before


def node_keys(graphs: Graphs) -> Tensor | None:
    """(node,) keys of what is drawn for every node: that of its graph, and its place there. None outside of a training step.

    Raises:
        ValueError: the graphs are not the samples that the keys belong to.
    """
    keys = current_rows()
    if keys is None:
        return None
    if len(keys) != len(graphs):
        raise ValueError(f"{len(graphs)} graphs do not have the {len(keys)} keys of the batch")
    return part_keys(keys[graphs.graph], graphs.place)
