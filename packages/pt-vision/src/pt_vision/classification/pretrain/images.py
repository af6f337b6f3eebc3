"""Where training images come from: the user's labelled pictures, held in memory (drawn ones: `pt_vision.glyphs`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pt_core.errors import DataError
from torch import Tensor
from tqdm import tqdm

from pt_vision.classification.pretrain.config import PretrainConfig
from pt_vision.data import augment
from pt_vision.data.augment import Warp

IMAGE_WARP = Warp(rotate=10, scale=(1.0, 1.6), aspect=0.2, shift=0.25)


class Source(Protocol):
    """Where training images come from."""

    class_names: tuple[str, ...]

    def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented images (batch, 3, row, column) in [0, 1] and labels (batch,), a function of `rng` alone."""
        ...

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the same form that training never draws."""
        ...


class ImageSource:
    """The user's labelled images, held in memory at 1.15 times the training size (uint8).

    Raises:
        DataError: no images, labels that do not fit the class names, or fewer than two classes.
    """

    def __init__(
        self,
        data: Iterable[tuple[Image.Image, int]],
        config: PretrainConfig,
        class_names: Sequence[str] | None = None,
    ) -> None:
        stored = math.ceil(config.img_size * 1.15)
        arrays, labels = [], []
        for image, label in tqdm(data, desc="reading images", unit="image", leave=False, delay=2):
            small = image.convert("RGB").resize((stored, stored), Image.Resampling.BICUBIC, reducing_gap=3.0)
            arrays.append(np.asarray(small))
            labels.append(int(label))
        if not arrays:
            raise DataError("no images to pretrain on; give a folder with one sub-folder of images per class")
        classes = len(class_names) if class_names is not None else max(labels) + 1
        if min(labels) < 0 or max(labels) >= classes:
            raise DataError(f"labels run from {min(labels)} to {max(labels)}, but there are {classes} class names")
        if len(set(labels)) < 2:
            raise DataError("all images have the same label; pretraining needs at least two classes")
        self.class_names = tuple(class_names) if class_names is not None else tuple(map(str, range(classes)))
        self.size, self.chunk = config.img_size, config.batch_size
        self.warp = Warp(**{**asdict(IMAGE_WARP), "flip": 0.5 if config.flip else 0.0})
        self.images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        self.labels = torch.tensor(labels)
        order = torch.randperm(len(labels), generator=keyed(config.seed, 0, "holdout"))
        kept_out = int(config.holdout * len(labels))
        self.out_rows, self.train_rows = order[:kept_out], order[kept_out:]

    def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Source.batch`."""
        rows = self.train_rows[torch.randint(len(self.train_rows), (size,), generator=rng)]
        images = augment.warp(self.images[rows].float() / 255, self.size, self.warp, rng, padding="reflection")
        images = augment.sometimes(images, 0.8, rng, lambda part: augment.colour(part, rng))
        images = augment.sometimes(images, 0.1, rng, augment.blur)
        images = augment.sometimes(images, 0.1, rng, lambda part: augment.low_resolution(part, rng))
        images = augment.sometimes(images, 0.25, rng, lambda part: augment.noise(part, rng, 0.05))
        return images, self.labels[rows]

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source.held_out`: the images as they are, at the training size."""
        for rows in self.out_rows.split(self.chunk):
            images = self.images[rows].float() / 255
            yield F.interpolate(images, size=(self.size,) * 2, mode="bilinear", antialias=True), self.labels[rows]


def keyed(seed: int, step: int, purpose: str = "train") -> torch.Generator:
    """A generator that is a function of (seed, step, purpose), so that step k does not depend on the steps before."""
    key = int(np.random.SeedSequence([seed, step, *purpose.encode()]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(key >> 1)
