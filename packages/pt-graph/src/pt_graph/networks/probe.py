"""Two fixed small graphs on which networks of equal weights show whether they also compute the same.

Edges are directed and asymmetric, one is a self-loop, one occurs twice, and one node receives nothing, so that aggregation, normalisation
by degrees and the treatment of loops all matter. Every value is a function of a counter.
"""

from __future__ import annotations

import torch

from pt_graph.graphs.batch import Graphs, collate, single

EDGES = (
    ((0, 1), (0, 2), (1, 2), (2, 2), (2, 3), (3, 1), (3, 4), (4, 0), (0, 1)),
    ((0, 1), (1, 0), (2, 1)),
)
"""Source and target of the edges of each graph; the last node of the second one receives nothing."""
NODES = (5, 3)
LARGEST_ATOM = 118


def probe_graphs(width: int | None) -> Graphs:
    """Float features of this width, or atoms and bonds where it is None."""
    graphs, counter = [], 0
    for size, pairs in zip(NODES, EDGES, strict=True):
        node = torch.arange(counter, counter + size)
        edge = torch.arange(len(pairs))
        if width is None:
            atoms = torch.stack([(5 + 7 * node) % LARGEST_ATOM, node % 3], 1)
            graphs.append(single(atoms, torch.tensor(pairs).T, torch.stack([edge % 4, edge % 3], 1)))
        else:
            column = torch.arange(width)
            x = 1.5 * torch.cos(1.7 * node[:, None] + 0.9 * column)
            graphs.append(single(x, torch.tensor(pairs).T))
        counter += size
    return collate(graphs)
