"""timm's ResNet and ConvNeXt behind the Backbone contract: networks without tokens, for prompts of pixels and for baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pt_core.backbone import Features, Layout
from pt_core.errors import UserError
from torch import Tensor, nn

from pt_vision.adapters.base import VisionBackbone
from pt_vision.adapters.edits import Edits, apply_values


class ConvBackbone(VisionBackbone):
    """A timm network whose features are a map (batch, channel, row, column).

    Sites: `pixels`, `features`. There are no blocks of tokens (`depth` is 0); the cells of the last map are the segment `token`.
    `pool` goes through the network's own head: its pooling, and in ConvNeXt the norm behind it.
    """

    module: Any
    pools = ("default", "token")

    def __init__(self, module: nn.Module, source: str, preprocessing: Mapping[str, Any] | None = None) -> None:
        super().__init__(module, source, preprocessing)
        self.dims, self.depth = (), 0
        self.dim = self.feature_dim = int(module.num_features)  # type: ignore[arg-type]
        self.channels = int(self.preprocessing["input_size"][0])
        rows, columns = self.preprocessing["input_size"][1:]
        self.image_size = (int(rows), int(columns))
        self.stride = int(module.feature_info[-1]["reduction"])  # type: ignore[index]
        self.patch_size = (self.stride, self.stride)
        self.grid = (-(-self.image_size[0] // self.stride), -(-self.image_size[1] // self.stride))
        self.sites = frozenset({"pixels", "features"})

    def encode(self, inputs: Tensor, edits: Edits, read: frozenset[str] | None) -> Features:
        """See `Backbone.__call__`. `inputs`: (batch, channel, row, column), of any size that the strides leave something of."""
        if inputs.ndim != 4 or inputs.shape[1] != self.channels or not inputs.is_floating_point():
            raise UserError(
                f"images must be normalised floats (batch, {self.channels}, rows, columns), got {tuple(inputs.shape)}"
            )
        pixels = apply_values("pixels", inputs, Layout((), (inputs.shape[2], inputs.shape[3])), edits)
        found = self.module.forward_features(pixels.to(self.dtype))
        grid = (int(found.shape[2]), int(found.shape[3]))
        layout = Layout((("token", grid[0] * grid[1]),), grid)
        return Features(apply_values("features", found.flatten(2).transpose(1, 2), layout, edits), layout)

    def _default_segments(self) -> tuple[str, ...]:
        return ("token",)

    def _pool(self, features: Features, how: str) -> Tensor:
        if how == "token":
            return features.tokens.mean(1)
        assert features.layout.grid is not None
        pooled: Tensor = self.module.forward_head(
            features.tokens.transpose(1, 2).unflatten(2, features.layout.grid), pre_logits=True
        )
        return pooled
