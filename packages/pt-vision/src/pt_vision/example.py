"""What `budget` counts with: a network without weights, and a batch of images of zeros."""

from __future__ import annotations

import torch
from pt_core.backbone import Backbone
from pt_core.data import Batch
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import by_role
from pt_core.run.declare.spec import RunSpec
from pt_core.run.tasks.classification import Classification
from pt_core.task import Task

from pt_vision.backbones import load_backbone
from pt_vision.segmentation.task import Segmentation


def example(
    modality: Modality, spec: RunSpec, classes: int, batch_size: int
) -> tuple[dict[str, Backbone], Task, Batch]:
    """See `Modality.example`; segmentation counts one crop per image."""
    (role,) = modality.registry.info(spec.method).backbones
    source = by_role("--backbone", spec.run.backbone, [role]).get(role, modality.default_backbone(role))
    weights = by_role("--weights", spec.run.weights, [role]).get(role)
    backbone = load_backbone(source, weights, spec.data.image_size, device="meta")
    rows, names = torch.arange(batch_size), [f"class {i}" for i in range(classes)]
    ids = [str(row) for row in range(batch_size)]
    if spec.task.task == "segmentation":
        side = getattr(spec.config, "crop_size", None) or int(backbone.preprocessing.get("crop", 1024))
        target = torch.zeros(batch_size, side, side, dtype=torch.long)
        images = torch.zeros(batch_size, 3, side, side, device="meta")
        return {role: backbone}, Segmentation(names), Batch(images, target, rows, ids)
    images = torch.zeros(
        batch_size, 3, *getattr(backbone, "parts", {}).get("image", backbone).image_size, device="meta"
    )
    target = torch.zeros(batch_size, dtype=torch.long)
    return {role: backbone}, Classification(names), Batch(images, target, rows, ids)
