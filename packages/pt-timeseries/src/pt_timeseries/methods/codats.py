"""CoDATS: features from which a classifier cannot tell the domains apart, learned against that classifier by a reversed gradient.

Multi-Source Deep Domain Adaptation with Weak Supervision for Time-Series Sensor Data (Wilson, Doppa and Cook, KDD 2020, arXiv 2005.10996).
With `discriminator="binary"` it is DANN on the pooled sources (Ganin et al., JMLR 2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from pt_core import Backbone, Batch, Task
from torch import Tensor, nn
from torch.nn import functional as F

from pt_timeseries.method import Adaptation, Whole, summed

ID = "codats"
TITLE = "CoDATS: Multi-Source Deep Domain Adaptation for Time-Series Sensor Data (baseline)"
TUNES = "the encoder, a linear head and a domain classifier"
NEEDS = {"train": "labelled windows of source domains", "unlabeled": "windows of the target domain"}


@dataclass(frozen=True)
class CodatsConfig:
    discriminator: Literal["each", "binary"] = "each"
    """The domain classifier tells every source and the target apart (CoDATS), or sources from target (DANN)."""
    weight: Annotated[float, Ge(0)] = 1.0
    """Largest weight of the reversed gradient; it rises as 2 / (1 + exp(-10 p)) - 1 with the progress p."""
    hidden: Annotated[int, Ge(1), Le(65_536)] = 100
    """Width of the domain classifier."""
    use_shots: bool = True
    """Classify the target shots too, where there are any."""
    stochastic: bool = False
    """Run the encoder's own dropout while training; results then depend on how a batch is cut (--accumulate, several processes)."""


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.weight * gradient, None


class Codats(Adaptation):
    """min over encoder and head, max over the domain classifier c: CE(h(f(X)), Y) - weight CE(c(f(X)), domain).

    Parameters: |encoder| + C d + C + d k + k + k^2 + k + k D + D, k the classifier's width, D = M + 1 domains (2 for DANN).
    """

    Config = CodatsConfig
    training_only = ("critic.*",)
    config: CodatsConfig

    def __init__(self, config: CodatsConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim, width = self.backbone.feature_dim, config.hidden
        self.domains = len(self.domain_task.sources) + 1 if config.discriminator == "each" else 2
        self.claimed = self.backbone.claim("*", buffers=True)
        self.claimed.stochastic = self.coupled = config.stochastic
        self.head = self.new_head()
        layers = (nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.domains))
        self.critic = nn.Sequential(*layers)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """The classifier of other domains is learned anew."""
        return self.own_tensors()[name].detach().clone() if name.startswith("critic.") else None

    def feature(self, batch: Batch) -> Tensor:
        """(batch, dim)."""
        return self.backbone.pool(self.backbone(batch.inputs, weights=self.claimed)).float()

    def domain(self, batch: Batch) -> Tensor:
        """(batch,): the source's index, the target last; or 0 for sources and 1 for the target."""
        index = batch.extra["domain"]
        if self.config.discriminator == "binary":
            return (index < 0).long()
        return torch.where(index < 0, self.domains - 1, index)

    def adapt(self, ctx: Any) -> Mapping[str, float | Tensor]:
        whole = Whole.of(ctx, ("source", "target", "shots"))
        weight = self.config.weight * (2 / (1 + math.exp(-10 * ctx.step / max(1, ctx.steps))) - 1)

        def part(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            logs: dict[str, Tensor] = {}
            for name, batch in batches.items():
                feature, share = self.feature(batch), whole.share(name, batch)
                loss = F.cross_entropy(self.critic(Reversed.apply(feature, weight)), self.domain(batch))
                logs[f"{name}/domain"] = share * loss.detach()
                if batch.target is not None:
                    ce = self.task.loss(self.head(feature), batch)[0]
                    logs[f"{name}/ce"], loss = share * ce.detach(), loss + ce
                ctx.backward(loss, len(batch))
            return logs

        drawn = [name for name, count in whole.counts.items() if count]
        names = [f"{name}/{kind}" for name in drawn for kind in ("domain", "ce") if (name, kind) != ("target", "ce")]
        logs = summed(ctx, names, ctx.each_part(part))
        ctx.update()
        total = sum(whole.counts.values())  # the streams' losses are weighed by their samples
        loss = sum(whole.counts[name.partition("/")[0]] / total * value for name, value in logs.items())
        return {"loss": loss, **logs}
