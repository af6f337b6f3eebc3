"""What segmentation adds to a report: pictures of predictions, and IoU per condition over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from pt_core.data import Dataset
from pt_core.method import Method
from pt_core.run.declare.panel import Panel
from pt_core.task import Evaluation

from pt_vision.segmentation.pictures import comparison, legend
from pt_vision.segmentation.task import decode_mask

SHOWN = 8


def mask_panels(method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
    """Image, truth, prediction and error of test images at equal distances in the order of their IoU, and the colours of the classes."""
    final, dataset = finals.get("test"), data.get("test")
    if final is None or not final.records or dataset is None:
        return ()
    base: Any = getattr(dataset, "base", dataset)
    rows: Sequence[int] = getattr(dataset, "indices", range(len(dataset)))
    order = sorted(range(len(final.records)), key=lambda row: final.records[row].get("miou") or 0.0)
    chosen = [order[round(n)] for n in np.linspace(0, len(order) - 1, min(SHOWN, len(order)))]
    names, items = method.task.class_names(), []
    for row in chosen:
        record = final.records[row]
        pixels, truth = base.pair(rows[row])
        picture = comparison(pixels, truth, decode_mask(record["mask"]), len(names))
        score = record.get("miou")
        label = " ".join(
            text for text in (record.get("condition", ""), f"IoU {score:.2f}" if score is not None else "") if text
        )
        items.append({"picture": picture, "id": record["id"], "predicted": label})
    items.append({"picture": legend(names), "id": "", "predicted": "colours of the classes"})
    note = "Above: image and truth; below: prediction and error (red: wrong, black: not labelled). From the lowest to the highest IoU."
    return [Panel("Segmented test images", "images", {"items": items}, note)]


def condition_panels(method: Method, metrics: Sequence[Mapping[str, Any]]) -> Sequence[Panel]:
    """IoU per condition on validation over the steps, with the slices of a chain of domains where the method has one."""
    lines = [line for line in metrics if line.get("split") == "val" and line.get("stage") != "final"]
    names = sorted({key for line in lines for key in line if key.startswith("miou/")})
    if not names or len(lines) < 2:
        return ()
    series = {key.removeprefix("miou/"): [(line["step"], line[key]) for line in lines if key in line] for key in names}
    series = {"all": [(line["step"], line["miou"]) for line in lines if "miou" in line], **series}
    note = ""
    plan: Any = getattr(method, "plan", None)
    if plan is not None:
        steps = max(int(line["step"]) for line in lines)
        slices = [(slot, len(list(run))) for slot, run in groupby(plan(k, steps) for k in range(steps))]
        ends = np.cumsum([length for _, length in slices])
        if len(slices) > 1:
            shown = ", ".join(f"{slot} to step {end}" for (slot, _), end in zip(slices, ends, strict=True))
            note = f"Target images drawn: {shown}."
    return [
        Panel(
            "Mean IoU per condition over the chain",
            "lines",
            {"series": series, "x_label": "step", "y_label": "mean IoU"},
            note,
        )
    ]
