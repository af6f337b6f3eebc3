"""Small pictures of graphs: nodes laid out by their hop distances, coloured by the size of their prompt."""

from __future__ import annotations

import io

import numpy as np
from torch import Tensor

from pt_graph.graphs.batch import Graphs

ELEMENTS = {6: "", 7: "N", 8: "O", 9: "F", 15: "P", 16: "S", 17: "Cl", 35: "Br", 53: "I"}
LIMIT = 120
"""Larger graphs are drawn by their first nodes only."""


def layout(edges: np.ndarray, nodes: int) -> np.ndarray:
    """(node, 2) positions whose distances approach the hop distances: classical scaling, then stress majorisation."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import shortest_path

    if nodes == 1:
        return np.zeros((1, 2))
    weights = np.ones(edges.shape[1])
    distance = shortest_path(
        coo_matrix((weights, (edges[0], edges[1])), shape=(nodes, nodes)).tocsr(), directed=False, unweighted=True
    )
    far = distance[np.isfinite(distance)].max(initial=1.0) + 1
    distance = np.where(np.isfinite(distance), distance, far)
    centre = np.eye(nodes) - 1 / nodes
    values, vectors = np.linalg.eigh(-0.5 * centre @ distance**2 @ centre)
    place = vectors[:, -2:] * np.sqrt(values[-2:].clip(min=1e-6)) if nodes > 2 else np.array([[0.0, 0.0], [1.0, 0.0]])
    place = place + 1e-3 * np.stack([np.sin(np.arange(nodes)), np.cos(2 * np.arange(nodes))], 1)
    weight = np.where(distance > 0, 1 / np.maximum(distance, 1e-9) ** 2, 0)
    inverse = np.linalg.pinv(np.diag(weight.sum(1)) - weight)
    for _ in range(40):
        gap = np.linalg.norm(place[:, None] - place[None], axis=-1)
        ratio = np.where(gap > 1e-9, distance / np.maximum(gap, 1e-9), 0) * weight
        place = inverse @ ((np.diag(ratio.sum(1)) - ratio) @ place)
    return place


def draw(graph: Graphs, values: Tensor | None = None, side: int = 220, top: float | None = None) -> bytes:
    """PNG of one graph.

    Args:
        graph: a batch of one.
        values: (node,) sizes that colour the nodes from grey (0) to dark orange; None leaves them grey.
        side: pixels.
        top: value of the darkest colour (default: the largest).
    """
    from PIL import Image, ImageDraw

    nodes = min(graph.nodes, LIMIT)
    edges = graph.edge_index.cpu().numpy()
    edges = edges[:, (edges < nodes).all(0)]
    kinds = None if graph.edge_attr is None else graph.edge_attr[:, 0].cpu().numpy()
    place = layout(edges, nodes)
    span = max(float(np.ptp(place, axis=0).max()), 1e-6)
    scale = 2  # drawn twice as large, then reduced
    big, edge = side * scale, 16 * scale * side // 220
    points = (place - (place.max(0) + place.min(0)) / 2) / span * (big - 2 * edge) + big / 2
    picture = Image.new("RGB", (big, big), "white")
    pen = ImageDraw.Draw(picture)
    for number, (i, j) in enumerate(edges.T.tolist()):
        if i < j:
            width = {1: 4, 2: 6}.get(int(kinds[number]), 2) if kinds is not None and len(kinds) == edges.shape[1] else 2
            pen.line([tuple(points[i]), tuple(points[j])], fill=(120, 120, 120), width=width)
    sizes = None if values is None else values.detach().float().cpu().numpy()[:nodes]
    most = top if top is not None else (float(sizes.max()) if sizes is not None and len(sizes) else 0.0)
    radius = max(2, min(11, int(48 / nodes**0.5)) * side // 220) * scale
    symbols = not graph.x.is_floating_point() and graph.x.ndim == 2
    for node in range(nodes):
        share = float(sizes[node] / most) if sizes is not None and most > 0 else 0.0
        fill = tuple(round(a + (b - a) * min(share, 1.0)) for a, b in zip((228, 228, 228), (214, 88, 10), strict=True))
        x, y = points[node]
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill, outline=(70, 70, 70), width=scale)
        text = ELEMENTS.get(int(graph.x[node, 0]) + 1, "*") if symbols else ""
        if text and radius >= 4 * scale:
            pen.text((x, y), text, fill="black", anchor="mm", font_size=radius)
    buffer = io.BytesIO()
    picture.resize((side, side), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()
