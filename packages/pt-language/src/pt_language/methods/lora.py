"""LoRA through the PEFT library: low-rank updates of linear layers (Hu et al., ICLR 2022, arXiv 2106.09685). The usual rival of prompts.

W x + (alpha / r) B A x with A (r, in), B (out, r), B starting at zero. The frozen weights are shared with the backbone, not copied.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Lt
from pt_core import Backbone, Task
from pt_core.errors import ConfigError, require
from torch import nn

from pt_language.adapters.base import LanguageBackbone
from pt_language.method import RECIPE, LanguageMethod

ID = "lora"
TITLE = "LoRA: Low-Rank Adaptation of Large Language Models (baseline, through PEFT)"
TUNES = "rank-r updates of linear layers"
NEEDS = {"train": "texts with answers"}
EXTRA = "peft"


@dataclass(frozen=True)
class LoRAConfig:
    rank: Annotated[int, Ge(1)] = 8
    """r."""
    alpha: Annotated[float, Gt(0)] = 16.0
    """Scale of the update: alpha / r."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout of the update's input."""
    targets: tuple[str, ...] = ()
    """Names of the layers to adapt (default: PEFT's choice for the model)."""


class LoRA(LanguageMethod):
    """logits(ids) = LM with W + (alpha / r) B A in the chosen layers.

    Parameters: sum over the adapted layers of r * (in + out), and C * d + C with a classification head.
    """

    Config = LoRAConfig
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "lr": 1e-3}
    config: LoRAConfig

    def __init__(self, config: LoRAConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        peft: Any = require("peft", "pt-language[peft]")
        frozen = self.backbone.module
        # New module objects around the backbone's own parameters: nothing frozen is copied or changed.
        shared = {id(tensor): tensor for tensor in [*frozen.parameters(), *frozen.buffers()]}
        network = copy.deepcopy(frozen, shared)
        options = {"target_modules": list(config.targets)} if config.targets else {}
        settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, **options)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # the two libraries' names drift apart; nothing a user can mend
                adapted = peft.get_peft_model(network, settings)
        except ValueError as error:
            raise ConfigError(
                f"LoRA cannot adapt {self.backbone.source!r}: {' '.join(str(error).split())[:160]}"
            ) from None
        self.updates = nn.ParameterDict()
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                self.updates[name.replace(".", "/")] = parameter.requires_grad_()
        self._adapted = (_variant(self.backbone, network, adapted),)  # in a tuple: not a child module

    @property
    def network(self) -> LanguageBackbone:
        found = self._adapted[0]
        dropouts = [module for name, module in found.module.named_modules() if "lora_dropout" in name]
        for module in dropouts:
            module.train(self.training)
        return found


def _variant(backbone: LanguageBackbone, network: nn.Module, adapted: Any) -> LanguageBackbone:
    """An adapter of the same kind around another network; `adapted` is kept alive with it."""
    new = copy.copy(backbone)
    new.module = network.eval()
    new._call = type(backbone._call)(network)
    new.__dict__["_peft"] = adapted
    return new
