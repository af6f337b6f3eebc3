"""What this package adds to a report: graphs with their prompted nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pt_core.data import Dataset
from pt_core.method import Method
from pt_core.run.declare.panel import Panel

from pt_graph.drawing.picture import draw
from pt_graph.method import GraphMethod

DRAWN = 12
"""Graphs drawn in a report."""


@torch.no_grad()
def prompted_nodes(method: Method, data: Mapping[str, Dataset]) -> Sequence[Panel]:
    """Graphs with their prompted nodes coloured by the size of the prompt."""
    role = "test" if "test" in data else "val" if "val" in data else "train"
    rows = list(range(min(DRAWN, len(data[role]))))
    if not rows or not isinstance(method, GraphMethod):
        return ()
    graphs = [data[role].sample(row, epoch=None, seed=0) for row in rows]
    batch = data[role].collate(rows, graphs).to(method.backbone.device)
    method.eval()
    if not hasattr(batch.inputs, "split"):  # features alone were kept
        return ()
    prompts = method.node_prompts(batch.inputs, batch)
    if prompts is None:
        return ()
    norms = prompts.norm(dim=1)
    top = float(norms.max())
    parts = norms.split(batch.inputs.sizes.tolist())
    items = [
        {
            "picture": draw(graph, part, top=top),
            "id": batch.ids[row],
            "predicted": f"{int((part > 0).sum())} of {len(part)}, largest {float(part.max()):.2g}",
        }
        for row, (graph, part) in enumerate(zip(graphs, parts, strict=True))
    ]
    note = f"Grey: no prompt; darkest: norm {top:.3g}. One colour scale for all."
    return (Panel(f"Prompted nodes ({role})", "images", {"items": items}, note),)
