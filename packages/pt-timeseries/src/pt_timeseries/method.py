"""The base of pt-timeseries' methods: a backbone that reads series, a head that starts where pre-training left it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from pt_core import Method
from torch import nn

if TYPE_CHECKING:
    from pt_timeseries.adapters._common import SeriesBackbone
    from pt_timeseries.task import DomainClassification


class SeriesMethod(Method):
    """Adds the types of backbone and task, and what methods with several domains share."""

    @property
    def backbone(self) -> SeriesBackbone:
        return cast("SeriesBackbone", self.backbones["backbone"])

    @property
    def domain_task(self) -> DomainClassification:
        return cast("DomainClassification", self.task)

    def new_head(self) -> nn.Linear:
        """A linear head: the pre-trained classifier where its classes are the task's (in any order), else fresh weights."""
        head = nn.Linear(self.backbone.feature_dim, self.task.outputs)
        known, names = self.backbone.head, list(self.task.class_names())
        if known is not None and set(known.classes) == set(names):
            rows = [known.classes.index(name) for name in names]
            with torch.no_grad():
                head.weight.copy_(known.weight[rows])
                head.bias.copy_(known.bias[rows])
        return head


def stage_steps(ctx: Any, epochs: float, samples: int, batch_size: int, evaluations: int = 4) -> dict[str, Any]:
    """Options of a stage that passes `epochs` times over `samples`; `--steps` holds for every stage instead, where it is given.

    A stage is evaluated (and checkpointed) `evaluations` times, unless the run says how often.
    """
    steps = ctx.options.steps or max(1, math.ceil(epochs * math.ceil(samples / max(1, min(batch_size, samples)))))
    return {"steps": steps, "eval_every": ctx.options.eval_every or max(1, math.ceil(steps / evaluations))}
