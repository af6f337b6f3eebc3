"""Standard decoders of segmentation-models-pytorch (extra `segmentation`) on the same four stages as our own heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pt_core.errors import ConfigError, require
from pt_core.randomness import Dropout
from torch import Tensor, nn

from pt_vision.networks.segformer import resize


class LibraryHead(nn.Module):
    """FPN or UPerNet over F_1..F_4, channel dropout, a 1x1 classifier; logits at 1/4.

    Raises:
        MissingExtra: segmentation-models-pytorch is not installed.
    """

    def __init__(
        self, kind: Literal["fpn", "upernet"], dims: Sequence[int], classes: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        extra = "pt-vision[segmentation]"
        require("segmentation_models_pytorch", extra)
        if kind == "fpn" and width % 32:
            raise ConfigError(f"head_width={width}: the FPN decoder normalises groups and needs a multiple of 32")
        channels = [3, 0, *dims]  # as the library counts: the image, a stage that MiT does not have, and F_1..F_4
        self.decoder: Any
        if kind == "fpn":
            module: Any = require("segmentation_models_pytorch.decoders.fpn.decoder", extra)
            self.decoder = module.FPNDecoder(
                channels, 5, pyramid_channels=width, segmentation_channels=width, dropout=0.0
            )
        else:
            module = require("segmentation_models_pytorch.decoders.upernet.decoder", extra)
            self.decoder = module.UPerNetDecoder(channels, 5, decoder_channels=width)
        self.dropout = Dropout(dropout, "head", channels=True)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(batch, class, row / 4, column / 4)."""
        first = maps[0]
        empty = first.new_zeros(len(first), 0, 2 * first.shape[2], 2 * first.shape[3])
        image = first.new_zeros(len(first), 3, 4 * first.shape[2], 4 * first.shape[3])
        out: Tensor = self.classifier(self.dropout(self.decoder([image, empty, *maps])))
        return resize(out, first.shape[2:])
