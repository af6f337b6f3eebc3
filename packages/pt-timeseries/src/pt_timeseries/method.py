"""The base of pt-timeseries' methods: a backbone that reads series, a head that starts where pre-training left it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pt_core import Batch, Method, Stage, Stream
from torch import Tensor, nn

if TYPE_CHECKING:
    from pt_timeseries.adapters.base import SeriesBackbone
    from pt_timeseries.tasks.classification import DomainClassification


class SeriesMethod(Method):
    """Adds the types of backbone and task, and what methods with several domains share."""

    class_tensors: tuple[str, ...] | None = ("head.*",)

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


class Adaptation(SeriesMethod):
    """One stage on labelled windows of the sources and unlabelled ones of the target, with the shots where there are any.

    A method says what the head reads of a window (`feature`) and what a step does with a batch of each (`adapt`).
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 3e-4,
        "weight_decay": 1e-4,
        "epochs": 15,
        "batch_size": 64,
        "clip_norm": 1.0,
    }
    head: nn.Linear

    @abstractmethod
    def feature(self, batch: Batch) -> Tensor:
        """(batch, dim)."""

    @abstractmethod
    def adapt(self, ctx: Any) -> Mapping[str, float | Tensor]:
        """One step over `ctx.parts`, whose batches are named source, target and shots."""

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        logits: Tensor = self.head(self.feature(batch))
        return logits

    def stages(self, ctx: Any) -> Iterator[Stage]:
        streams = {"source": Stream("train"), "target": Stream("unlabeled")}
        if "shots" in ctx.data and self.config.use_shots:
            streams["shots"] = Stream("shots")
        tracks = ("claimed.*",) if self.config.stochastic else ()
        steps = stage_steps(ctx, ctx.options.epochs, len(ctx.data["train"]), ctx.options.batch_size)
        yield Stage("train", tracks=tracks, streams=streams, options=steps, step_parts=self.adapt)


@dataclass(frozen=True)
class Whole:
    """What a step draws over all micro-batches and processes.

    Attributes:
        counts: stream name -> samples.
        parts: micro-batches.
    """

    counts: Mapping[str, int]
    parts: int

    @staticmethod
    def of(ctx: Any, streams: Sequence[str]) -> Whole:
        own = [sum(len(part[name]) for part in ctx.parts if name in part) for name in streams]
        numbers = torch.tensor([*own, sum(bool(part) for part in ctx.parts)], device=ctx.device)
        *counts, parts = ctx.reduce(numbers).tolist()
        return Whole(dict(zip(streams, counts, strict=True)), parts)

    def share(self, name: str, batch: Batch) -> float:
        """The weight of a micro-batch's mean in the mean over the whole stream."""
        return len(batch) / self.counts[name]

    def backward(self, ctx: Any, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`; the step's is the sum over micro-batches, not their mean."""
        ctx.backward(loss * self.parts, 1)


def summed(ctx: Any, names: Sequence[str], found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sums over micro-batches and processes of the values called `names`, of which every micro-batch has some."""
    zero = torch.zeros((), device=ctx.device)
    rows = [torch.stack([part.get(name, zero).detach().float() for name in names]) for part in found]
    totals = ctx.reduce(torch.stack(rows).sum(0) if rows else zero.expand(len(names)))
    return dict(zip(names, totals, strict=True))


def samples(ctx: Any, role: str) -> int:
    """Samples of a role; none where a stage is looked at without data."""
    return len(ctx.data[role]) if role in ctx.data else 0


def stage_steps(ctx: Any, epochs: float, samples: int, batch_size: int, evaluations: int = 4) -> dict[str, Any]:
    """Options of a stage that passes `epochs` times over `samples`; `--steps` holds for every stage instead, where it is given.

    A stage is evaluated (and checkpointed) `evaluations` times, unless the run says how often.
    """
    steps = ctx.options.steps or max(1, math.ceil(epochs * math.ceil(samples / max(1, min(batch_size, samples)))))
    return {"steps": steps, "eval_every": ctx.options.eval_every or max(1, math.ceil(steps / evaluations))}
