"""The recipe of a small ViT's pretraining, and what came out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pt_core.errors import ConfigError


@dataclass(frozen=True)
class PretrainConfig:
    """The network and its training. The defaults make the built-in backbone.

    Attributes:
        img_size: rows and columns of the input, in pixels.
        patch_size: rows and columns of a patch, in pixels; divides img_size.
        embed_dim: width d; a multiple of num_heads.
        depth: number of blocks, >= 1.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over d.
        steps: optimiser steps, >= 1.
        batch_size: images per step, >= 2.
        lr: peak learning rate of AdamW, > 0; linear warm-up, then a half cosine to 0.
        weight_decay: on matrices only, not on biases, norms, position embeddings and the class token.
        warmup: share of the steps spent warming up, in [0, 1).
        label_smoothing: in [0, 1).
        clip: largest gradient norm, > 0.
        flip: mirror user images left to right at random (drawn pictures are never mirrored).
        holdout: share of the user's images kept out of training to measure accuracy, in [0, 0.5].
        precision: "fp32", or "bf16" for autocast.
        seed: of initialisation, drawing and augmentation.
    """

    img_size: int = 32
    patch_size: int = 8
    embed_dim: int = 160
    depth: int = 6
    num_heads: int = 5
    mlp_ratio: float = 4.0
    steps: int = 2000
    batch_size: int = 256
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.08
    label_smoothing: float = 0.1
    clip: float = 1.0
    flip: bool = True
    holdout: float = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "steps", "lr", "clip"):
            if not getattr(self, name) > 0:
                problems.append(f"{name}={getattr(self, name)} must be above 0")
        if self.batch_size < 2:
            problems.append(f"batch_size={self.batch_size} must be at least 2")
        if self.seed < 0 or self.weight_decay < 0:
            problems.append(f"seed={self.seed} and weight_decay={self.weight_decay} must not be negative")
        if self.patch_size > 0 and self.img_size % self.patch_size:
            problems.append(f"img_size={self.img_size} is not a multiple of patch_size={self.patch_size}")
        if self.num_heads > 0 and self.embed_dim % self.num_heads:
            problems.append(f"embed_dim={self.embed_dim} is not a multiple of num_heads={self.num_heads}")
        for name, top in (("warmup", 1.0), ("label_smoothing", 1.0), ("holdout", 0.5)):
            value = getattr(self, name)
            if not 0 <= value < top and not (name == "holdout" and value == top):
                problems.append(f"{name}={value} is outside [0, {top:g}{']' if name == 'holdout' else ')'}")
        if self.precision not in ("fp32", "bf16"):
            problems.append(f"precision={self.precision!r} must be 'fp32' or 'bf16'")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class PretrainReport:
    """What came out.

    Attributes:
        out: the backbone file.
        parameters: weights in the file, the head not counted.
        classes: number of classes it was trained on.
        train_loss: mean over the last tenth of the steps.
        held_out_accuracy: on images that were not trained on, in [0, 1]; None where none were held out.
        seconds: wall time of the training.
    """

    out: Path
    parameters: int
    classes: int
    train_loss: float
    held_out_accuracy: float | None
    seconds: float
