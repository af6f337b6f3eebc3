"""Deep CORAL: the covariances of source and target features are brought together while the source is classified.

Deep CORAL: Correlation Alignment for Deep Domain Adaptation (Sun and Saenko, ECCV 2016 workshops, arXiv 1607.01719). The sources are pooled
into one. The paper aligns the outputs of the last layer; on time series the features before it are usual (AdaTime): both are offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Batch, Task
from torch import Tensor, nn

from pt_timeseries.method import Adaptation, Whole, summed

ID = "coral"
TITLE = "Deep CORAL: Correlation Alignment for Deep Domain Adaptation (baseline)"
TUNES = "the encoder (or a linear layer on its frozen features) and a linear head"
NEEDS = {"train": "labelled windows of source domains", "unlabeled": "windows of the target domain"}


SIDES = ("source", "target")
"""Streams whose features are brought together."""


@dataclass(frozen=True)
class CoralConfig:
    encoder: Literal["tuned", "frozen"] = "tuned"
    """`tuned` trains a copy of the encoder, as published; `frozen` trains a linear layer on features that are computed once."""
    weight: Annotated[float, Ge(0)] = 1.0
    """lambda, weight of the CORAL loss."""
    align: Literal["features", "logits"] = "features"
    """What is aligned."""
    use_shots: bool = True
    """Classify the target shots too, where there are any."""
    stochastic: bool = False
    """Run the encoder's own dropout while training; results then depend on how a batch is cut (--accumulate, several processes)."""


class DeepCoral(Adaptation):
    """loss = CE(source) + lambda |C_S - C_T|_F^2 / (4 d^2), C the covariance of a batch of features.

    The covariances are those of the whole batch, however it is cut: of a cut one they are summed in a pass of their own before
    (`Gap`), which costs a second forward.

    Parameters: tuned |encoder| + C d + C; frozen d^2 + d + C d + C.
    """

    Config = CoralConfig
    config: CoralConfig

    def __init__(self, config: CoralConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim = self.backbone.feature_dim
        self.claimed, self.layer = None, None
        if config.encoder == "tuned":
            self.claimed = self.backbone.claim("*", buffers=True)
            self.claimed.stochastic = self.coupled = config.stochastic
        else:
            self.layer = nn.Linear(dim, dim)
            nn.init.eye_(self.layer.weight)
            nn.init.zeros_(self.layer.bias)
        self.head = self.new_head()

    def frozen_key(self) -> str | None:
        return None if self.layer is None else "mean"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(batch, dim)."""
        return self.backbone.pool(self.backbone(batch.inputs))

    def feature(self, batch: Batch) -> Tensor:
        """(batch, dim): what is aligned, and what the head reads."""
        if self.layer is None:
            return self.backbone.pool(self.backbone(batch.inputs, weights=self.claimed)).float()
        pooled = batch.extra.get("frozen")
        return self.layer((self.frozen_part(batch) if pooled is None else pooled).float())

    def sides(self, batches: Mapping[str, Batch], features: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What is brought together, of source and target where they are among the batches: (batch, d) each."""
        found = {n: self.feature(batches[n]) if features is None else features[n] for n in SIDES if n in batches}
        return {n: self.head(value).float() for n, value in found.items()} if self.config.align == "logits" else found

    def adapt(self, ctx: Any) -> Mapping[str, float | Tensor]:
        whole, gap = Whole.of(ctx, (*SIDES, "shots")), None
        paired = min(whole.counts[name] for name in SIDES) > 1
        if paired and whole.parts > 1:
            with torch.no_grad():
                seen = ctx.each_part(self.sides)
                gap = Gap.of(
                    ctx, seen, self.head.out_features if self.config.align == "logits" else self.backbone.feature_dim
                )

        def part(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            features = {name: self.feature(batch) for name, batch in batches.items()}
            losses = {
                name: whole.share(name, batch) * self.task.loss(self.head(features[name]), batch)[0]
                for name, batch in batches.items()
                if name != "target"
            }
            sides = self.sides(batches, features)
            total = sum(losses.values(), torch.zeros((), device=ctx.device))
            if gap is not None:
                total = total + self.config.weight * gap.term(sides)
            elif paired:
                losses["coral"] = coral(sides["source"], sides["target"])
                total = total + self.config.weight * losses["coral"]
            whole.backward(ctx, total)
            return losses

        labelled = [name for name, count in whole.counts.items() if count and name != "target"]
        logs = summed(ctx, [*labelled, "coral"], ctx.each_part(part))
        ctx.update()
        if gap is not None:
            logs["coral"] = gap.value
        return {"loss": sum(logs[name] for name in labelled) + self.config.weight * logs["coral"], **logs}


def coral(source: Tensor, target: Tensor) -> Tensor:
    """|C_S - C_T|_F^2 / (4 d^2) for features (batch, d) of at least two rows each."""
    gap = torch.cov(source.T) - torch.cov(target.T)
    return gap.square().sum() / (4 * source.shape[1] ** 2)


@dataclass(frozen=True)
class Gap:
    """`coral` of a batch that is cut: what the gradient of one row needs of all of them.

    With G = C_S - C_T, n rows and their mean m, the gradient with respect to a row x of the source is G (x - m) / (d^2 (n - 1)), and the
    negative of that for the target.

    Attributes:
        matrix: G (d, d).
        means: side -> m (d,).
        rows: side -> n.
    """

    matrix: Tensor
    means: Mapping[str, Tensor]
    rows: Mapping[str, float]

    @classmethod
    def of(cls, ctx: Any, parts: Sequence[Mapping[str, Tensor]], width: int) -> Gap:
        """From the sides of this process's micro-batches, at least two rows of each in all."""
        means, rows, covariances = {}, {}, []
        for name in SIDES:
            own = torch.cat([torch.zeros(0, width, device=ctx.device), *(part[name] for part in parts if name in part)])
            totals = ctx.reduce(torch.cat([own.sum(0), own.new_tensor([len(own)])]))
            means[name], rows[name] = totals[:-1] / totals[-1], float(totals[-1])
            centred = own - means[name]
            covariances.append(ctx.reduce(centred.T @ centred) / (rows[name] - 1))
        return cls(covariances[0] - covariances[1], means, rows)

    @property
    def value(self) -> Tensor:
        return self.matrix.square().sum() / (4 * len(self.matrix) ** 2)

    def term(self, sides: Mapping[str, Tensor]) -> Tensor:
        """A scalar with the gradient that `coral` of the whole batch has with respect to these rows."""
        total = self.matrix.new_zeros(())
        with torch.autocast(self.matrix.device.type, enabled=False):
            for name, values in sides.items():
                sign = 1 if name == "source" else -1
                pull = (values.detach() - self.means[name]) @ self.matrix
                total = total + sign * (values * pull).sum() / (len(self.matrix) ** 2 * (self.rows[name] - 1))
        return total
