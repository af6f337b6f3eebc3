"""What `budget` counts with: backbones without values, and records of one clip of one segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pt_core import Backbone, Batch, Task
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import by_role
from pt_core.run.declare.spec import RunSpec

from pt_audio.data.batches import AudioText, Element, Row
from pt_audio.tasks.answers import Answers

TEXT, ANSWER = 12, 6
"""Tokens of the instruction and of the answer."""


def example(
    modality: Modality, spec: RunSpec, classes: int, batch_size: int
) -> tuple[Mapping[str, Backbone], Task, Batch]:
    """The run's backbones on the meta device, its task without tags, and clips with 12 tokens of instruction, 6 of answer."""
    roles = list(modality.registry.info(spec.method).backbones)
    sources, weights = by_role("--backbone", spec.run.backbone, roles), by_role("--weights", spec.run.weights, roles)
    backbones: dict[str, Any] = {}
    for role in roles:
        source = sources.get(role, modality.default_backbone(role))
        backbones[role] = modality.load_backbone(source, weights.get(role), None, role).to("meta")
    words = tuple(range(1, TEXT + 1))
    rows = tuple(Row((Element(number, (number,), words, words),)) for number in range(batch_size))
    segments = torch.zeros(batch_size, *backbones["encoder"].front.shape, device="meta")
    target = {
        "answer": torch.ones(batch_size, ANSWER, dtype=torch.long),
        "tag": torch.zeros(batch_size, dtype=torch.long),
    }
    ids = [f"clip-{number}" for number in range(batch_size)]
    batch = Batch(AudioText(segments, False, rows), target, torch.arange(batch_size), ids, {})
    return backbones, Answers.of(spec.task, ()), batch
