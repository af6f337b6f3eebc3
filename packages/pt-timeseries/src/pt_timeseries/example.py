"""What `budget` counts with: an encoder without weights, and a batch of windows of zeros."""

from __future__ import annotations

import torch
from pt_core.data import Batch
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import by_role
from pt_core.run.declare.spec import RunSpec
from pt_core.task import Task

from pt_timeseries.adapters.base import SeriesBackbone
from pt_timeseries.backbones import load_backbone
from pt_timeseries.tasks.classification import DomainClassification

SOURCES = 4


def example(
    modality: Modality, spec: RunSpec, classes: int, batch_size: int
) -> tuple[dict[str, SeriesBackbone], Task, Batch]:
    """See `Modality.example`."""
    named = by_role("--backbone", spec.run.backbone, ["backbone"])
    backbone = load_backbone(named.get("backbone", modality.default_backbone("backbone")), device="meta")
    series = torch.zeros(batch_size, backbone.channels, backbone.length or 0, device="meta")
    rows = torch.arange(batch_size)
    batch = Batch(series, torch.zeros(batch_size, dtype=torch.long), rows, [str(row) for row in range(batch_size)])
    names = [f"class {i}" for i in range(classes)]
    return {"backbone": backbone}, DomainClassification(names, sources=[f"source {i}" for i in range(SOURCES)]), batch
