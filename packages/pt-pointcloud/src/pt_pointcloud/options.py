"""Options of the package's own commands; imported before torch is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt


@dataclass(frozen=True)
class PretrainOptions:
    """Flags of `pt-pointcloud pretrain`; the defaults are the recipe of the built-in backbone."""

    data: str | None = None
    """Meshes or clouds, as in `fit`; labels are not read (default: generated shapes)."""
    points: Annotated[int, Ge(8)] = 512
    """N, points of a cloud."""
    groups: Annotated[int, Ge(2)] = 32
    """G, patches per cloud."""
    group_size: Annotated[int, Ge(2)] = 24
    """M, points per patch."""
    dim: Annotated[int, Ge(8)] = 96
    """C, width (published: 384)."""
    depth: Annotated[int, Ge(1)] = 6
    """Encoder blocks (published: 12)."""
    heads: Annotated[int, Ge(1)] = 3
    """Attention heads (published: 6)."""
    first: Annotated[int, Ge(1)] = 32
    """First width of the patch encoder (published: 128)."""
    decoder_depth: Annotated[int, Ge(1)] = 2
    """Decoder blocks (published: 4)."""
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.6
    """Share of the patches that is masked."""
    steps: Annotated[int, Ge(1)] = 2000
    """Optimiser steps (published: 300 epochs of ShapeNet)."""
    batch_size: Annotated[int, Ge(2)] = 64
    """Clouds per step (published: 128)."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Ge(0)] = 0.05
    """Weight decay of AdamW (none for vectors)."""
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.03
    """Share of the steps with linear warm-up (published: 10 of 300 epochs)."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of initial values, shapes, masks and augmentation."""
