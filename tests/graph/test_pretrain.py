"""Pretraining: objectives, what they draw, and the file that comes out."""

from __future__ import annotations

import json

import pt_graph
import pytest
import torch
from pt_graph.pretrain import OBJECTIVES, PretrainConfig, hop_distance, pretrain, unlinked

from tests.graph.methods.common import batch, data


@pytest.mark.parametrize(
    ("objective", "kind"), [*((name, "molecules") for name in OBJECTIVES), ("masked_edge", "shapes")]
)
def test_pretraining_lowers_its_loss(objective, kind, tmp_path):
    graphs = [graph for part in data(kind).values() for graph in part.graphs]
    config = PretrainConfig(objective=objective, dim=8, layers=2, epochs=25, batch_size=32, lr=0.01, dropout=0.0)
    pretrain(config, graphs, tmp_path / "n.safetensors", "test")
    card = json.loads((tmp_path / "n.json").read_text())
    assert card["lowest_loss"] < 0.97 * card["losses"][0]
    backbone = pt_graph.load_backbone(f"file:{tmp_path / 'n.safetensors'}")
    assert backbone.nodes(batch(kind).inputs).isfinite().all()


@pytest.mark.parametrize("kind", ["molecules", "shapes"])
def test_negative_pairs_are_no_edges(kind):
    graphs = batch(kind).inputs
    anchors = graphs.edge_index[0]
    chosen = unlinked(graphs, anchors, torch.Generator().manual_seed(0))
    inside = torch.equal(graphs.graph[chosen], graphs.graph[anchors])
    assert inside is (kind == "molecules")  # parts of one large graph are told from other parts
    edges = set(map(tuple, graphs.edge_index.T.tolist()))
    bad = sum((a, b) in edges or a == b for a, b in zip(anchors.tolist(), chosen.tolist(), strict=True))
    assert bad < 0.1 * len(anchors)


def test_hop_distances():
    graph = data("shapes")["val"].graphs[0]  # a path
    assert hop_distance(graph, torch.tensor([0]), 2).tolist() == [0, 1, 2, *[-1] * (graph.nodes - 3)]
