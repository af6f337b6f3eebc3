"""The molecular GNN family of Hu et al. (ICLR 2020): GIN, GCN, GraphSAGE and GAT, 5 layers of width 300, "JK last".

Parameter names are those of the published checkpoints, so a state dict loads without translation.

    h_0 = Emb_atom[x_0] + Emb_chirality[x_1]                       (node, d)      <- the place of feature prompts
    layer l: a self-loop of bond type 4, direction 0 on every node; e_ij = Emb_bond[type] + Emb_dir[direction], own tables per layer
      gin        h_i = MLP( sum_j (h_j + e_ij) ),  MLP = Linear(d, 2d) ReLU Linear(2d, d)
      gcn        z = W h + b;  h_i = sum_j (deg_i deg_j)^-1/2 (z_j + e_ij), deg: edges out of a node, as in the published code
      graphsage  z = W h + b;  h_i = normalise_2( mean_j (z_j + e_ij) )
      gat        z = W h + b (2 heads);  h_i = mean_heads sum_j softmax_j( leaky( att . [z_i, z_j + e_ij] ) ) (z_j + e_ij) + bias
    then BatchNorm, ReLU (not after the last layer), dropout where it is switched on.
"""

from __future__ import annotations

from typing import Literal

import torch
from pt_core.randomness import dropout
from torch import Tensor, nn
from torch.nn import functional as F

from pt_graph.graphs.structure import BOND_DIRECTIONS, BOND_TYPES, Structure, View

Kind = Literal["gin", "gcn", "graphsage", "gat"]
KINDS: tuple[Kind, ...] = ("gin", "gcn", "graphsage", "gat")
ATOMS, CHIRALITIES, MASK_ATOM = 120, 3, 119
HEADS, SLOPE = 2, 0.2


class GINLayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.edge_embedding1, self.edge_embedding2 = bond_tables(dim)

    def forward(self, hidden: Tensor, edges: View) -> Tensor:
        bonds = edges.gather_bonds(self.edge_embedding1.weight, self.edge_embedding2.weight, "sum")
        result: Tensor = self.mlp(edges.gather(hidden, "sum") + bonds)
        return result


class GCNLayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.edge_embedding1, self.edge_embedding2 = bond_tables(dim)

    def forward(self, hidden: Tensor, edges: View) -> Tensor:
        bonds = edges.gather_bonds(self.edge_embedding1.weight, self.edge_embedding2.weight, "symmetric_out")
        return edges.gather(self.linear(hidden), "symmetric_out") + bonds


class GraphSAGELayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.edge_embedding1, self.edge_embedding2 = bond_tables(dim)

    def forward(self, hidden: Tensor, edges: View) -> Tensor:
        bonds = edges.gather_bonds(self.edge_embedding1.weight, self.edge_embedding2.weight, "mean")
        return F.normalize(edges.gather(self.linear(hidden), "mean") + bonds, p=2, dim=-1)


class GATLayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight_linear = nn.Linear(dim, HEADS * dim)
        self.att = nn.Parameter(torch.empty(1, HEADS, 2 * dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.xavier_uniform_(self.att)
        self.edge_embedding1, self.edge_embedding2 = bond_tables(HEADS * dim)

    def forward(self, hidden: Tensor, edges: View) -> Tensor:
        assert edges.bond is not None
        assert edges.direction is not None
        z = self.weight_linear(hidden)
        bonds = self.edge_embedding1.weight[edges.bond] + self.edge_embedding2.weight[edges.direction]
        sender = (z[edges.source] + bonds).view(-1, HEADS, self.dim)  # (edge, head, dim)
        receiver = z.view(-1, HEADS, self.dim)
        mine, theirs = self.att[..., : self.dim], self.att[..., self.dim :]
        score = (receiver * mine).sum(-1)[edges.target] + (sender * theirs).sum(-1)  # (edge, head)
        weight = edge_softmax(F.leaky_relu(score, SLOPE), edges.target, edges.nodes)
        total = sender.new_zeros(edges.nodes, HEADS, self.dim)
        return total.index_add(0, edges.target, sender * weight[..., None].to(sender.dtype)).mean(1) + self.bias


LAYERS: dict[str, type[nn.Module]] = {"gin": GINLayer, "gcn": GCNLayer, "graphsage": GraphSAGELayer, "gat": GATLayer}


class MolecularGNN(nn.Module):
    """Shapes: atoms (node, 2) int64 -> h_0 (node, d) -> (node, d).

    Parameters: gin 120d + 3d + L[(2d^2 + 2d) + (2d^2 + d) + 9d + 2d], 1,857,900 for d = 300, L = 5.
    """

    needs_bonds = True

    def __init__(self, kind: Kind, dim: int = 300, layers: int = 5, dropout: float = 0.5) -> None:
        super().__init__()
        self.kind, self.dim, self.prompt_dim, self.depth, self.dropout = kind, dim, dim, layers, dropout
        self.active_dropout = 0.0
        self.x_embedding1 = nn.Embedding(ATOMS, dim)
        self.x_embedding2 = nn.Embedding(CHIRALITIES, dim)
        for table in (self.x_embedding1, self.x_embedding2):
            nn.init.xavier_uniform_(table.weight)
        self.gnns = nn.ModuleList(LAYERS[kind](dim) for _ in range(layers))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(layers))

    def embed(self, atoms: Tensor) -> Tensor:
        """h_0 (node, d)."""
        return self.x_embedding1(atoms[:, 0]) + self.x_embedding2(atoms[:, 1])

    def forward(self, hidden: Tensor, structure: Structure) -> Tensor:
        edges = structure.view("more")
        for layer, (conv, norm) in enumerate(zip(self.gnns, self.batch_norms, strict=True)):
            hidden = norm(conv(hidden, edges))
            if layer < self.depth - 1:
                hidden = F.relu(hidden)
            rate = self.dropout if self.training else self.active_dropout
            if rate:
                hidden = dropout(hidden, rate, True, f"nodes behind layer {layer}")
        return hidden


def bond_tables(dim: int) -> tuple[nn.Embedding, nn.Embedding]:
    tables = nn.Embedding(BOND_TYPES, dim), nn.Embedding(BOND_DIRECTIONS, dim)
    for table in tables:
        nn.init.xavier_uniform_(table.weight)
    return tables


def edge_softmax(score: Tensor, target: Tensor, nodes: int) -> Tensor:
    """(edge, head): softmax over the edges that end in one node."""
    index = target[:, None].expand_as(score)
    top = torch.full((nodes, score.shape[1]), -torch.inf, device=score.device, dtype=score.dtype)
    top = top.scatter_reduce(0, index, score.detach(), "amax")
    power = (score - top[target]).exp()
    total = power.new_zeros(nodes, score.shape[1]).index_add(0, target, power)
    return power / total[target].clamp(min=1e-16)
