"""What `budget` counts with: a network without weights, and a batch of graphs of zeros."""

from __future__ import annotations

import torch
from pt_core.data import Batch
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import by_role
from pt_core.run.declare.spec import RunSpec
from pt_core.task import Task

from pt_graph.backbones import load_backbone
from pt_graph.graphs.batch import collate, single
from pt_graph.networks.backbone import GraphBackbone
from pt_graph.tasks.binary import BinaryTasks
from pt_graph.tasks.classification import GraphClassification

NODES = 24
"""Size of an example graph, about that of a drug-like molecule."""


def example(
    modality: Modality, spec: RunSpec, classes: int, batch_size: int
) -> tuple[dict[str, GraphBackbone], Task, Batch]:
    """Rings of nodes; see `Modality.example`."""
    source = by_role("--backbone", spec.run.backbone, ["backbone"]).get(
        "backbone", modality.default_backbone("backbone")
    )
    weights = by_role("--weights", spec.run.weights, ["backbone"]).get("backbone")
    backbone = load_backbone(source, weights, device="meta")
    here = torch.arange(NODES)
    edges = torch.cat([torch.stack([here, (here + 1) % NODES]), torch.stack([(here + 1) % NODES, here])], 1)
    x = torch.zeros(NODES, 2, dtype=torch.long) if backbone.categorical else torch.zeros(NODES, backbone.prompt_dim)
    one = single(x, edges, torch.zeros(2 * NODES, 2) if backbone.categorical else None)
    binary = spec.task.task != "classification" and classes <= 2
    task: Task = BinaryTasks(["property"]) if binary else GraphClassification([f"class {i}" for i in range(classes)])
    target = torch.ones(batch_size, 1) if binary else torch.zeros(batch_size, dtype=torch.long)
    ids = [str(row) for row in range(batch_size)]
    return {"backbone": backbone}, task, Batch(collate([one] * batch_size), target, torch.arange(batch_size), ids)
