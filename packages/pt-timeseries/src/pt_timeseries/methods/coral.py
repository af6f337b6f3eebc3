"""Deep CORAL: the covariances of source and target features are brought together while the source is classified.

Deep CORAL: Correlation Alignment for Deep Domain Adaptation (Sun and Saenko, ECCV 2016 workshops, arXiv 1607.01719). The sources are pooled
into one. The paper aligns the outputs of the last layer; on time series the features before it are usual (AdaTime): both are offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Batch, Task
from torch import Tensor, nn

from pt_timeseries.method import Adaptation

ID = "coral"
TITLE = "Deep CORAL: Correlation Alignment for Deep Domain Adaptation (baseline)"
TUNES = "the encoder (or a linear layer on its frozen features) and a linear head"
NEEDS = {"train": "labelled windows of source domains", "unlabeled": "windows of the target domain"}


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
    """Run the encoder's own dropout while training."""


class DeepCoral(Adaptation):
    """loss = CE(source) + lambda |C_S - C_T|_F^2 / (4 d^2), C the covariance of a batch of features.

    Parameters: tuned |encoder| + C d + C; frozen d^2 + d + C d + C.
    """

    Config = CoralConfig
    coupled = True
    config: CoralConfig

    def __init__(self, config: CoralConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim = self.backbone.feature_dim
        self.claimed, self.layer = None, None
        if config.encoder == "tuned":
            self.claimed = self.backbone.claim("*", buffers=True)
            self.claimed.stochastic = config.stochastic
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

    def adapt(self, ctx: Any, batches: Mapping[str, Batch]) -> Mapping[str, float | Tensor]:
        if not {"source", "target"} <= set(batches):
            ctx.update()
            return {}
        features = {name: self.feature(batch) for name, batch in batches.items()}
        losses = {n: self.task.loss(self.head(features[n]), b)[0] for n, b in batches.items() if n != "target"}
        pair = [features["source"], features["target"]]
        if self.config.align == "logits":
            pair = [self.head(feature) for feature in pair]
        losses["coral"] = coral(*pair) if min(map(len, pair)) > 1 else pair[0].new_zeros(())
        total = sum(value * (self.config.weight if name == "coral" else 1) for name, value in losses.items())
        assert isinstance(total, Tensor)
        ctx.backward(total, len(batches["source"]))
        ctx.update()
        return {"loss": total.detach(), **{name: value.detach() for name, value in losses.items()}}


def coral(source: Tensor, target: Tensor) -> Tensor:
    """|C_S - C_T|_F^2 / (4 d^2) for features (batch, d) of at least two rows each."""
    gap = torch.cov(source.T) - torch.cov(target.T)
    return gap.square().sum() / (4 * source.shape[1] ** 2)
