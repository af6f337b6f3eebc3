"""The base of pt-vision's methods: a `Method` whose backbone reads images."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pt_core import Method

if TYPE_CHECKING:
    from pt_vision.adapters._common import VisionBackbone


class VisionMethod(Method):
    """Adds nothing but the type of the backbone (pooling, patch size, token counts)."""

    @property
    def backbone(self) -> VisionBackbone:
        return cast("VisionBackbone", self.backbones["backbone"])
