"""Pictures of graphs."""

from __future__ import annotations

import pytest
import torch
from pt_graph.drawing.picture import draw, layout

from tests.graph.methods.common import data


def test_drawings():
    for graph in (data("molecules")["val"].graphs[0], data("shapes")["val"].graphs[2]):
        picture = draw(graph, torch.linspace(0, 1, graph.nodes))
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert picture != draw(graph)
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]).numpy()
    place = torch.from_numpy(layout(edges, 3))
    near, far = (place[0] - place[1]).norm(), (place[0] - place[2]).norm()
    assert float(far / near) == pytest.approx(2, rel=0.05)
    assert layout(edges[:, :0], 1).shape == (1, 2)
