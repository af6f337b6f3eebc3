"""Full fine-tuning: every weight of a copy of the language model is trained. The upper end of the parameter axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pt_core import Backbone, Claim, Task

from pt_language.method import RECIPE, LanguageMethod

ID = "full"
TITLE = "Full fine-tuning (baseline)"
TUNES = "every weight of the language model (with --stochastic results depend on how a batch is cut)"
NEEDS = {"train": "texts with answers"}


@dataclass(frozen=True)
class FullConfig:
    stochastic: bool = False
    """Run the model's own dropout while training; it draws for whole batches, so results then depend on how a batch is cut."""


class FullFineTuning(LanguageMethod):
    """logits(ids) = LM'(ids), where LM' starts as a copy of the frozen model.

    Parameters: |LM| (tied weights once), and C * d + C with a classification head. Coupled where it is stochastic.
    """

    Config = FullConfig
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "lr": 1e-4, "weight_decay": 0.01, "epochs": 5}
    config: FullConfig

    def __init__(self, config: FullConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.claimed = self.backbone.claim("*")
        self.claimed.stochastic = self.coupled = config.stochastic

    @property
    def weights(self) -> Claim:
        return self.claimed
