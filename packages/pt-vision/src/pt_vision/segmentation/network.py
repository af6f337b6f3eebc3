"""The segmenter that the methods train: a copy of the backbone's encoder, a decoder head, and HRDA's two scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import torch
from annotated_types import Ge, Lt
from pt_core.errors import ConfigError
from pt_core.randomness import apart
from torch import Tensor, nn

from pt_vision.networks.segformer import SegFormerHead, resize
from pt_vision.segmentation.heads import DAFormerHead, ScaleAttentionHead
from pt_vision.segmentation.hrda import Box, average_windows, context_view, cut_windows, detail_view, fuse
from pt_vision.segmentation.mixing import weighted_loss
from pt_vision.segmentation.sliding import slide

if TYPE_CHECKING:
    from pt_vision.adapters.mit import MitBackbone

CROP = 1024
"""Published crop, where the backbone names none."""
VIEWS = 96
"""Network inputs that run at once when windows slide over an image."""


CLASS_TENSORS = ("network.*.classifier.*", "network.*.linear_pred.*")
"""Tensors of a method's `network` that depend on the classes: the last layers of its decoder and its scale attention."""


@dataclass(frozen=True)
class NetworkConfig:
    head: Literal["daformer", "segformer", "fpn", "upernet"] = "daformer"
    """Decoder that is trained on the encoder's four stages; the last two are from segmentation-models-pytorch (extra `segmentation`)."""
    head_width: Annotated[int, Ge(1)] = 256
    """E, channels of the decoder."""
    head_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Channel dropout before the classifier."""
    hrda: bool = True
    """Fuse a half-resolution context view with full-resolution detail windows (HRDA); False reads crops as they are."""
    crop_size: Annotated[int, Ge(32)] | None = None
    """Side of training crops and of inference windows in pixels (default: what the backbone was made for, else 1024)."""
    detail_weight: Annotated[float, Ge(0), Lt(1)] = 0.1
    """lambda_d, weight of the loss of the detail logits; the fused ones get 1 - lambda_d."""
    freeze_backbone: bool = False
    """Train the decoder only and leave the encoder as it is (not in the paper)."""
    stochastic: bool = True
    """Drop-path of the encoder while training, drawn for whole batches: results then depend on how a batch is cut."""


class Visit(Protocol):
    """What a method does to the views of a call: pixel edits before the encoder, a change of F_1 behind it."""

    def edits(self, views: Tensor) -> Mapping[str, Any]: ...

    def adapt(self, first: Tensor) -> Tensor: ...


@dataclass
class Scales:
    """Outputs of a training forward on crops.

    Attributes:
        logits: (batch, class, C, C), fused.
        detail: (batch, class, C/2, C/2) logits of the detail window, or None without HRDA.
        box: corner of that window.
        features: F_4 of the context view (of the crop, without HRDA).
        context: the view that `features` belong to.
    """

    logits: Tensor
    features: Tensor
    context: Tensor
    detail: Tensor | None = None
    box: Box | None = field(default=None)


class Network(nn.Module):
    """encoder' -> F_1..F_4 -> head -> logits, at one scale or HRDA's two.

    Parameters: |encoder| + |head| + |scale attention|; with MiT-B5, 19 classes and defaults 81,443,008 + 3,712,275 + 530,707.
    """

    def __init__(self, backbone: MitBackbone, classes: int, config: NetworkConfig) -> None:
        super().__init__()
        self._backbone = (backbone,)  # a tuple, so that its network does not become a child module
        self.config = config
        self.crop = config.crop_size or int(backbone.preprocessing.get("crop") or CROP)
        multiple = 64 if config.hrda else 32
        if self.crop % multiple:
            raise ConfigError(
                f"crop_size={self.crop} is no multiple of {multiple}, which {'HRDA views' if config.hrda else 'the encoder'} need"
            )
        self.claimed = None if config.freeze_backbone else backbone.claim("encoder.*")
        if self.claimed is not None:
            self.claimed.stochastic = config.stochastic
        dims = backbone.stage_dims
        self.head: nn.Module
        if config.head in ("fpn", "upernet"):
            from pt_vision.segmentation.decoders import LibraryHead

            self.head = LibraryHead(config.head, dims, classes, config.head_width, config.head_dropout)
        else:
            kind = {"daformer": DAFormerHead, "segformer": SegFormerHead}[config.head]
            self.head = kind(dims, classes, config.head_width, config.head_dropout)
        self.attention = (
            ScaleAttentionHead(dims, classes, config.head_width, config.head_dropout) if config.hrda else None
        )

        self.prompts: Any = None
        """What a method adds while training; a child module, so that a teacher averages it with the rest."""

    @property
    def backbone(self) -> MitBackbone:
        return self._backbone[0]

    @property
    def view_size(self) -> int:
        """Side of what the encoder reads: C/2 with HRDA, else C."""
        return self.crop // 2 if self.config.hrda else self.crop

    def maps(self, views: Tensor, visit: Visit | None = None) -> tuple[Tensor, ...]:
        """F_1..F_4 of (view, 3, S, S). A visit's F_1' replaces F_1 for the decoder; later stages come from the plain F_1."""
        edits = {} if visit is None else visit.edits(views)
        maps = self.backbone(views, edits, weights=self.claimed).extra["maps"]
        precision = next(self.head.parameters()).dtype
        maps = tuple(m.to(precision) for m in maps)
        return maps if visit is None else (visit.adapt(maps[0]), *maps[1:])

    def scales(self, crops: Tensor, box: Box | None = None, visit: Visit | None = None) -> Scales:
        """Training forward of (batch, 3, C, C) crops; `box` is the detail window (with HRDA).

        Both views run through the encoder in one batch, and through the head one after the other, so that its BatchNorm sees one scale.
        """
        if self.attention is None:
            maps = self.maps(crops, visit)
            return Scales(resize(self.head(maps), crops.shape[2:]), maps[-1], crops)
        assert box is not None
        batch, context = len(crops), context_view(crops)
        views = torch.cat([context, detail_view(crops, box)])
        maps = self.maps(views, visit)
        near, far = tuple(m[batch:] for m in maps), tuple(m[:batch] for m in maps)
        logits = self.head(far)
        with apart("detail"):
            detail = self.head(near)
        fused = fuse(logits, self.attention(far), detail, box)
        half = crops.shape[-1] // 2
        return Scales(resize(fused, crops.shape[2:]), far[-1], context, resize(detail, (half, half)), box)

    def windows(self, crops: Tensor, visit: Visit | None = None) -> Tensor:
        """Logits (batch, class, C, C) of whole crops: the detail branch slides C/2 windows with stride C/4, all in one batch."""
        if self.attention is None:
            return resize(self.head(self.maps(crops, visit)), crops.shape[2:])
        size = crops.shape[-1]
        batch, context = len(crops), context_view(crops)
        near, boxes = cut_windows(crops, size // 2, size // 4)
        maps = self.maps(torch.cat([context, near]), visit)
        far, details = tuple(m[:batch] for m in maps), tuple(m[batch:] for m in maps)
        with apart("detail"):
            detail = average_windows(self.head(details), boxes, size // 4, size // 4, scale=4)
        return resize(fuse(self.head(far), self.attention(far), detail), crops.shape[2:])

    def forward(self, images: Tensor, visit: Visit | None = None) -> Tensor:
        """Logits (batch, class, row, column) of images of any size; see `slide`."""
        at_once = VIEWS // (10 if self.attention is not None else 1)
        return slide(lambda crops: self.windows(crops, visit), images, self.crop, at_once)


def scale_loss(out: Scales, labels: Tensor, weights: Tensor | None, detail_weight: float) -> Tensor:
    """Cross-entropy over all pixels; with HRDA (1 - lambda_d) of the fused logits' and lambda_d of the detail window's."""
    loss = weighted_loss(out.logits, labels, weights)
    if out.detail is None or out.box is None:
        return loss
    near = None if weights is None else detail_view(weights, out.box)
    detail = weighted_loss(out.detail, detail_view(labels, out.box), near)
    return (1 - detail_weight) * loss + detail_weight * detail
