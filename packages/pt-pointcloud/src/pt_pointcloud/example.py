"""What `budget` counts with: a network without weights, and a batch of clouds of zeros."""

from __future__ import annotations

import torch
from pt_core.data import Batch
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import by_role
from pt_core.run.declare.spec import RunSpec
from pt_core.run.tasks.classification import Classification
from pt_core.task import Task

from pt_pointcloud.backbones import load_backbone
from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.tasks.parts import PartSegmentation


def example(
    modality: Modality, spec: RunSpec, classes: int, batch_size: int
) -> tuple[dict[str, PointBackbone], Task, Batch]:
    """See `Modality.example`; every category has one part of its own."""
    named = by_role("--backbone", spec.run.backbone, ["backbone"])
    source = named.get("backbone", modality.default_backbone("backbone"))
    backbone = load_backbone(source, None, spec.data.normalise, device="meta")
    config, rows = backbone.config, torch.arange(batch_size)
    inputs = {
        "points": torch.zeros(batch_size, config.points, 3, device="meta"),
        "centres": torch.zeros(batch_size, config.groups, dtype=torch.int32),
        "neighbours": torch.zeros(batch_size, config.groups, config.group_size, dtype=torch.int32),
    }
    ids = [str(row) for row in range(batch_size)]
    labels = torch.zeros(batch_size, dtype=torch.long)
    names = [f"class {i}" for i in range(classes)]
    if spec.task.task == "parts":
        parts = PartSegmentation(names, [f"part {i}" for i in range(classes)], {n: [i] for i, n in enumerate(names)})
        target = torch.zeros(batch_size, config.points, dtype=torch.long)
        return {"backbone": backbone}, parts, Batch({**inputs, "category": labels}, target, rows, ids)
    return {"backbone": backbone}, Classification(names), Batch(inputs, labels, rows, ids)
