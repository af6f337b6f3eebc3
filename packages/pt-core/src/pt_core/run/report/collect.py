"""What a run shows in its report, stored as report.json: tables of the task, sample predictions with pictures, prompt norms."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pt_core.data import Dataset
from pt_core.method import Method
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.panel import Panel
from pt_core.run.train.rundir import RunDir
from pt_core.sealed import write_text
from pt_core.task import Evaluation

SAMPLES = 24


def write_panels(
    modality: Modality, method: Method, data: Mapping[str, Dataset], run: Path, finals: Mapping[str, Evaluation]
) -> None:
    """Write report.json and predictions/ of a finished run."""
    from pt_core.run.data.tables import write_table

    role = "test" if "test" in finals else "val"
    panels: list[dict[str, Any]] = []
    final = finals.get(role)
    if final is not None:
        if "confusion" in final.tables:
            panels.append(
                {"kind": "confusion", "title": f"Confusion matrix ({role})", "data": final.tables["confusion"]}
            )
        if "per_class" in final.tables:
            panels.append(
                {"kind": "table", "title": f"Per class ({role})", "data": {"rows": final.tables["per_class"]}}
            )
        if final.records:
            write_table(run / "predictions" / f"{role}.parquet", final.records)
            panels.append(_samples(modality, data[role], final.records, role))
    panels += [_stored(Panel(**panel)) for panel in method.panels()]
    panels += [_stored(panel) for panel in modality.panels(method.at_work, data, finals)]
    panels += [_stored(panel) for panel in modality.history_panels(method.at_work, RunDir(run).metrics())]
    norms = prompt_norms(method)
    if norms:
        note = "Mean Euclidean norm of a tensor's rows; a stack over layers has a bar per layer."
        panels.append({"kind": "bars", "title": "Norm of the tuned tensors", "note": note, "data": norms})
    write_text(run / "report.json", json.dumps({"panels": panels}))


def _stored(panel: Panel) -> dict[str, Any]:
    """A panel as JSON: pictures become base64 text."""
    data = dict(panel.data)
    if panel.kind == "images":
        data["items"] = [
            {**item, "picture": base64.b64encode(item["picture"]).decode()}
            if isinstance(item.get("picture"), bytes)
            else dict(item)
            for item in data["items"]
        ]
    return {"kind": panel.kind, "title": panel.title, "note": panel.note, "data": data}


def _samples(modality: Modality, dataset: Dataset, records: list[dict[str, Any]], role: str) -> dict[str, Any]:
    """Wrong predictions, the most confident first, then right ones, which keep a third of the places where there are enough."""
    order = sorted(range(len(records)), key=lambda i: -(records[i].get("score") or 0.0))
    wrong = [i for i in order if records[i].get("correct") is False]
    right = [i for i in order if records[i].get("correct") is not False]
    wrong = wrong[: max(SAMPLES - SAMPLES // 3, SAMPLES - len(right))]
    chosen = (wrong + right)[:SAMPLES]
    title = f"Sample predictions ({role}, wrong ones first)"
    pictures = [modality.thumbnail(dataset, i) for i in chosen]
    if not any(pictures):
        return _stored(Panel(title, "table", {"rows": [records[i] for i in chosen]}))
    items = [{**records[i], "picture": picture} for i, picture in zip(chosen, pictures, strict=True)]
    return _stored(Panel(title, "images", {"items": items}))


def prompt_norms(method: Method) -> dict[str, float]:
    """Mean row norm per tensor; stacks of layers (3 axes) give one value per layer. Weights of the backbone are left out."""
    norms: dict[str, float] = {}
    for name, tensor in method.named_parameters():
        if "claimed" in name.split("."):
            continue
        if tensor.ndim == 3:
            norms |= {f"{name}[{layer}]": float(part.detach().norm(dim=-1).mean()) for layer, part in enumerate(tensor)}
        elif tensor.ndim == 2:
            norms[name] = float(tensor.detach().norm(dim=-1).mean())
    return norms
