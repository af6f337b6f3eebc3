"""The base of pt-vision's methods: a `Method` whose backbone reads images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pt_core import Backbone, Method, Task
from pt_core.dual import DualBackbone
from pt_core.errors import ConfigError
from torch import Tensor, nn

if TYPE_CHECKING:
    from pt_vision.adapters.base import VisionBackbone


class VisionMethod(Method):
    """A method that gives one output per image, on a backbone with pooling, patch size and token counts.

    Attributes:
        head: what maps a pooled feature to logits, where `classify` is used.
    """

    head: nn.Module

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if getattr(task, "unit", "image") != "image":
            raise ConfigError(
                f"{type(self).__name__} predicts one class per image; choose a method for masks (source_only, self_training, coda, "
                "dvpt_seg, linear_seg)"
            )
        pair = self.backbones.get("backbone")
        if isinstance(pair, DualBackbone):
            raise ConfigError(
                f"{pair.source!r} is a pair of towers, {type(self).__name__} takes one network; methods for pairs: zero_shot, coop"
            )

    def classify(self, pooled: Tensor) -> Tensor:
        """(batch, class) logits of pooled features, whose precision may be lower than that of the head."""
        return self.head(pooled.to(next(self.head.parameters()).dtype))

    @property
    def backbone(self) -> VisionBackbone:
        return cast("VisionBackbone", self.backbones["backbone"])
