"""LoRA through the PEFT library: low-rank updates of linear layers (Hu et al., ICLR 2022, arXiv 2106.09685). The usual rival of prompts.

W x + (alpha / r) B A x with A (r, in), B (out, r), B starting at zero. The frozen weights are shared with the backbone, not copied; A and B
are put in place for each call, so that copies of the method share one adapted network.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from pt_core import Backbone, Task
from pt_core.artifact import Artifact
from pt_core.bridges.transformers import TokenDropout
from pt_core.errors import ConfigError, UserError, require
from torch import Tensor, nn

from pt_language.adapters.base import LanguageBackbone
from pt_language.method import RECIPE, LanguageMethod

ID = "lora"
TITLE = "LoRA: Low-Rank Adaptation of Large Language Models (baseline, through PEFT)"
TUNES = "rank-r updates of linear layers"
NEEDS = {"train": "texts with answers"}
EXTRA = "peft"

PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
"""What PEFT calls A and B of linear layers and of embeddings."""


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
        self._adapted = _Adapted(self.backbone, config)
        self.updates = nn.ParameterDict()
        for name, parameter in self._adapted.network.module.named_parameters():
            if "lora_" in name:
                self.updates[name.replace(".", "/")] = parameter.requires_grad_()

    @property
    def network(self) -> LanguageBackbone:
        return self._adapted.ready(self.training)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return {name.replace("/", "."): tensor for name, tensor in self.updates.items()}

    def folded(self) -> dict[str, dict[str, Tensor]]:
        """W + (alpha / r) B A of every adapted layer."""
        changes = self.network.with_weights(self.weights, self._adapted.changes)
        frozen = dict(self.backbone.module.named_parameters(remove_duplicate=False))
        uses = [id(tensor) for tensor in frozen.values()]
        for name in changes:
            if uses.count(id(frozen[name])) > 1:
                raise UserError(f"{name!r} is used by two layers, LoRA changed one of them: it cannot be folded in")
        return {"backbone": {name: frozen[name].detach() + change.detach() for name, change in changes.items()}}

    def warm_start(self, role: str, artifact: Artifact) -> None:
        """The same function, whatever rank and alpha were; of a higher rank, the nearest of this one."""
        config = artifact.card["config"]
        if artifact.method.partition("/")[2] == ID and {"alpha", "rank"} <= set(config):
            scale = config["alpha"] / config["rank"] / (self.config.alpha / self.config.rank)
            artifact = replace(artifact, tensors=self._fitted(artifact.tensors, float(scale)))
        super().warm_start(role, artifact)

    def _fitted(self, tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
        """Pairs A, B of this method's rank and alpha with the product that the given ones have at theirs."""
        found, own = dict(tensors), self.own_tensors()
        pairs = [(name, name.replace(a, b)) for a, b in PAIRS for name in tensors if a in name]
        for name, other in pairs:
            if other not in tensors or name not in own:
                continue
            down, up = tensors[name].float(), tensors[other].float() * scale
            have, want = down.shape[0], self.config.rank
            if have < want:  # the further rows are fresh, and switched off by zeros of B
                down = torch.cat([down, own[name].detach().to(down)[have:]])
                up = torch.cat([up, up.new_zeros(len(up), want - have)], 1)
            elif have > want:
                u, s, v = torch.linalg.svd(up @ down, full_matrices=False)
                root = s[:want].sqrt()
                down, up = root[:, None] * v[:want], u[:, :want] * root
            found[name], found[other] = down, up
        return found


class _Adapted:
    """The network with PEFT's layers around the backbone's own weights. Its A and B are placeholders: a method puts its own in place."""

    def __init__(self, backbone: LanguageBackbone, config: LoRAConfig) -> None:
        peft: Any = require("peft", "pt-language[peft]")
        frozen = backbone.module
        # New module objects around the backbone's own parameters: nothing frozen is copied or changed.
        memo: dict[int, Any] = {id(tensor): tensor for tensor in [*frozen.parameters(), *frozen.buffers()]}
        network = copy.deepcopy(frozen, memo)
        self.pairs = [(module, memo[id(module)]) for module in frozen.modules()]
        options = {"target_modules": list(config.targets)} if config.targets else {}
        settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, **options)
        try:
            with warnings.catch_warnings():
                # The two libraries' names drift apart, and PEFT tells what it sets by itself: nothing a user can mend.
                warnings.simplefilter("ignore", FutureWarning)
                warnings.filterwarnings("ignore", message="fan_in_fan_out")
                peft.get_peft_model(network, settings)
        except ValueError as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(f"LoRA cannot adapt {backbone.source!r}: {reason}") from None
        self.layers = {name: module for name, module in network.named_modules() if hasattr(module, "lora_dropout")}
        self.dropouts: list[TokenDropout] = []
        for name, layer in self.layers.items():
            for key, dropout in layer.lora_dropout.items():
                if isinstance(dropout, nn.Dropout):
                    self.dropouts.append(TokenDropout(dropout.p, name))
                    layer.lora_dropout[key] = self.dropouts[-1]
        self.network = copy.copy(backbone)  # an adapter of the same kind
        self.network.origin = backbone
        self.network.module = network.requires_grad_(False).eval()
        self.network._call = type(backbone._call)(network)
        self.backbone = backbone

    def __deepcopy__(self, memo: dict[int, Any]) -> _Adapted:
        return self

    def ready(self, training: bool) -> LanguageBackbone:
        """The adapted network, with the backbone's tensors as they are now (it may have moved) and dropout on or off."""
        for module, own in self.pairs:
            own._parameters.update(module._parameters)
            own._buffers.update(module._buffers)
        for dropout in self.dropouts:
            dropout.on = training
        self.network.recompute = self.backbone.recompute
        return self.network

    def changes(self) -> dict[str, Tensor]:
        """Name of a weight -> what is added to it."""
        names = {id(own): name for (module, own), name in zip(self.pairs, self._names(), strict=True)}
        return {
            f"{names[id(layer.get_base_layer())]}.weight": layer.get_delta_weight("default")
            for layer in self.layers.values()
        }

    def _names(self) -> list[str]:
        return [name for name, _ in self.backbone.module.named_modules()]
