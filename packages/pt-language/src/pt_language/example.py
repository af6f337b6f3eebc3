"""What `budget` counts with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pt_core import Backbone, Batch, Task
from pt_core.errors import ConfigError
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import by_role
from pt_core.run.declare.spec import RunSpec

from pt_language.backbones import load_backbone
from pt_language.data.templates import Template
from pt_language.tasks.classification import TextClassification
from pt_language.tasks.generation import Generation

TEXT = 128
"""Own tokens of the counted texts."""


def example(
    modality: Modality, spec: RunSpec, classes: int, batch_size: int
) -> tuple[Mapping[str, Backbone], Task, Batch]:
    """The backbone without weights, a task with one-token words, and texts of 128 tokens."""
    if spec.method in ("icl", "cpt"):
        raise ConfigError(
            f"the cost of {spec.method!r} depends on the examples it puts in context; budget has no data to look at"
        )
    sources = by_role("--backbone", spec.run.backbone, ["backbone"])
    weights = by_role("--weights", spec.run.weights, ["backbone"]).get("backbone")
    backbone = load_backbone(sources.get("backbone", modality.default_backbone("backbone")), weights, device="meta")
    options: Any = spec.task
    template = Template(spec.data.template or "input: {text} output: {label}")
    task: Task
    if options.task in ("auto", "classification"):
        labels = [chr(ord("a") + n) if n < 26 else f"class {n}" for n in range(classes)]
        task = TextClassification(labels, template.text, None, options.scoring, special_tokens=options.special_tokens)
    else:
        task = Generation(template.text, options.max_new_tokens, options.beams, options.special_tokens)
    ids = torch.zeros(batch_size, TEXT, dtype=torch.long)
    inputs = {"ids": ids, "mask": torch.ones_like(ids), "roles": torch.full_like(ids, 2)}
    answer = torch.zeros(batch_size, 1, dtype=torch.long)
    target = torch.zeros(batch_size, dtype=torch.long)
    names = [str(row) for row in range(batch_size)]
    return {"backbone": backbone}, task, Batch(inputs, target, torch.arange(batch_size), names, {"answer": answer})
