"""Small GNNs on float node features: the 2-layer GIN of RELIEF's node tasks and stacks of GCN, GraphSAGE or GAT layers."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from pt_core.randomness import dropout
from torch import Tensor, nn
from torch.nn import functional as F

from pt_graph.graphs.structure import Structure, View
from pt_graph.networks.molecular import edge_softmax

Kind = Literal["gin", "gcn", "sage", "gat"]
KINDS: tuple[Kind, ...] = ("gin", "gcn", "sage", "gat")
Activation = Literal["relu", "leaky_relu", "elu", "tanh", "identity"]
ACTIVATIONS: dict[str, Any] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # slope 0.01
    "elu": F.elu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


class PlainGNN(nn.Module):
    """`depth` layers with an activation (and dropout, where it is switched on) between them, none behind the last.

    gin   h_i = MLP( (1 + eps) h_i + sum_j h_j ), MLP = Linear `inner` Linear, eps fixed (one per layer, or one for all)
    gcn   h_i = sum_j (deg_i deg_j)^-1/2 W h_j + b, exactly one self-loop per node, deg: edges into a node
    sage  h_i = W_l mean_j h_j + b + W_r h_i
    gat   h_i = sum_j softmax_j( leaky_0.2( a_s . W h_j + a_t . W h_i ) ) W h_j + b, exactly one self-loop per node

    Shapes: (node, in) -> (node, out).
    """

    needs_bonds = False

    def __init__(
        self,
        kind: Kind,
        widths: list[int],
        activation: Activation = "leaky_relu",
        dropout: float = 0.2,
        heads: list[int] | None = None,
        eps: float | list[float] = 0.0,
        inner: Activation = "relu",
    ) -> None:
        super().__init__()
        self.kind, self.widths, self.activation, self.dropout = kind, list(widths), activation, dropout
        self.inner: Activation = inner
        self.prompt_dim, self.dim, self.depth, self.eps = widths[0], widths[-1], len(widths) - 1, eps
        self.active_dropout = 0.0
        pairs = list(itertools.pairwise(widths))
        self.heads = heads or [1] * len(pairs)
        self.layers = nn.ModuleList(_layer(kind, i, o, h) for (i, o), h in zip(pairs, self.heads, strict=True))

    def embed(self, x: Tensor) -> Tensor:
        """Float features are their own embedding."""
        return x

    def forward(self, hidden: Tensor, structure: Structure) -> Tensor:
        edges = structure.view("one" if self.kind in ("gcn", "gat") else "own")
        layers: Any = self.layers
        for number, layer in enumerate(layers):
            match self.kind:
                case "gin":
                    first, second = layer["mlp"][0], layer["mlp"][2]
                    eps = self.eps[number] if isinstance(self.eps, list) else self.eps
                    hidden = first(edges.gather(hidden, "sum") + (1 + eps) * hidden)
                    hidden = second(ACTIVATIONS[self.inner](hidden))
                case "gcn":
                    hidden = edges.gather(layer["lin"](hidden), "symmetric") + layer["bias"].value
                case "sage":
                    hidden = layer["lin_l"](edges.gather(hidden, "mean")) + layer["lin_r"](hidden)
                case "gat":
                    hidden = _attend(layer, hidden, edges, self.heads[number])
            if number < self.depth - 1:
                hidden = ACTIVATIONS[self.activation](hidden)
                rate = self.dropout if self.training else self.active_dropout
                if rate:
                    hidden = dropout(hidden, rate, True, f"nodes behind layer {number}")
        return hidden


class Vector(nn.Module):
    """A parameter inside a ModuleDict."""

    value: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(*shape))


def _layer(kind: str, width: int, out: int, heads: int) -> nn.ModuleDict:
    if kind == "gin":
        return nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(width, out), nn.ReLU(), nn.Linear(out, out))})
    if kind == "gcn":
        return nn.ModuleDict({"lin": nn.Linear(width, out, bias=False), "bias": Vector(out)})
    if kind == "sage":
        return nn.ModuleDict({"lin_l": nn.Linear(width, out), "lin_r": nn.Linear(width, out, bias=False)})
    layer: Any = nn.ModuleDict(
        {
            "lin": nn.Linear(width, out, bias=False),
            "bias": Vector(out),
            "source": Vector(1, heads, out // heads),
            "target": Vector(1, heads, out // heads),
        }
    )
    for name in ("source", "target"):
        nn.init.xavier_uniform_(layer[name].value)
    return layer


def _attend(layer: Any, hidden: Tensor, edges: View, heads: int) -> Tensor:
    z = layer["lin"](hidden).view(edges.nodes, heads, -1)
    sender, receiver = ((z * layer[name].value).sum(-1) for name in ("source", "target"))
    score = F.leaky_relu(sender[edges.source] + receiver[edges.target], 0.2)
    if edges.kept is not None:
        score = score.masked_fill(~edges.kept[:, None], -torch.inf)
    weight = edge_softmax(score, edges.target, edges.nodes)
    total = z.new_zeros(z.shape).index_add(0, edges.target, z[edges.source] * weight[..., None].to(z.dtype))
    result: Tensor = total.flatten(1) + layer["bias"].value
    return result
