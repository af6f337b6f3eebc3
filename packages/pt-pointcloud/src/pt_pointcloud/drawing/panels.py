"""What this package adds to a report: pictures of clouds, of the prompt's attention, and of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pt_core.data import Dataset
from pt_core.method import Method
from pt_core.run.declare.panel import Panel
from pt_core.task import Evaluation

from pt_pointcloud.drawing.pictures import by_part, by_value, draw
from pt_pointcloud.ops import interpolation_weights, three_interpolate, three_nn

SHOWN = 8


def thumbnail(dataset: Any, index: int) -> bytes:
    """A cloud as the backbone reads it, from four sides, coloured by depth or by its true parts."""
    points, parts = dataset.picture(index)
    return draw(points, None if parts is None else by_part(parts), side=64)


def cloud_panels(method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
    role = "test" if "test" in data else "val"
    if role not in data:
        return ()
    dataset: Any = data[role]
    panels = [
        panel for panel in (_parts(method, dataset, finals.get(role)), _attention(method, dataset)) if panel is not None
    ]
    return panels


def spread(count: int) -> list[int]:
    """Up to SHOWN rows at equal distances."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(SHOWN, count))})


@torch.no_grad()
def _attention(method: Any, dataset: Any) -> Panel | None:
    """Where the prompt looks: its attention over the patches, interpolated to the points."""
    if not hasattr(method, "attention") or not len(dataset):
        return None
    rows = spread(len(dataset))
    samples = [dataset.sample(row, epoch=None, seed=0) for row in rows]
    if samples[0]["points"].ndim != 2:  # votes
        return None
    batch = dataset.collate(rows, samples).to(method.backbone.device)
    method.eval()
    weights, centres = method.attention(batch)
    points = batch.inputs["points"]
    dist, idx = three_nn(points, centres)
    values = three_interpolate(weights[:, None].float(), idx, interpolation_weights(dist))[:, 0].cpu().numpy()
    items = [
        {"picture": draw(points[n].cpu().numpy(), by_value(values[n]), side=80), "id": dataset.ids[row]}
        for n, row in enumerate(rows)
    ]
    note = "Red: patches of the cloud that the computed prompt attends to most, mean over heads; four views."
    return Panel(f"Attention of the prompt (block {method.layer})", "images", {"items": items}, note)


def _parts(method: Any, dataset: Any, final: Evaluation | None) -> Panel | None:
    """True and predicted parts side by side."""
    if final is None or not final.records or "parts" not in final.records[0]:
        return None
    items = []
    for row in spread(len(final.records)):
        record = final.records[row]
        points, parts = dataset.picture(row)
        names = np.asarray(record["parts"])
        own = method.task.parts_of[record["label"]]
        place = {part: number for number, part in enumerate(own)}
        colours = [
            by_part(np.array([place.get(int(p), 9) for p in which])) for which in (parts, names) if which is not None
        ]
        both = np.concatenate([colours[0], colours[-1]])
        shift = np.array([0.0, -2.4 * float(np.linalg.norm(points, axis=1).max()), 0.0])
        picture = draw(np.concatenate([points, points + shift]), both, side=220, views=((30.0, 10.0),))
        items.append(
            {"picture": picture, "id": record["id"], "label": record["label"], "predicted": record["predicted"]}
        )
    return Panel(
        "Parts: true above, predicted below", "images", {"items": items}, "One colour per part of the category."
    )
