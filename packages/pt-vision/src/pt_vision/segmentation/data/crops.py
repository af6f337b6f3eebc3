"""The random crops that methods train on, evenly or by rare classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pt_core.data import Batch, Dataset, generator
from pt_core.errors import DataError, UserError
from pt_core.run.data.sampling import SubsetDataset

from pt_vision.segmentation.data.dataset import SegmentationDataset
from pt_vision.segmentation.data.masks import IGNORE

TRIES = 10
"""Crops drawn until one is varied enough, or holds enough of a rare class."""


@dataclass(frozen=True)
class RareClasses:
    """Rare-class sampling: class c with probability proportional to exp((1 - f_c) / T), an image that holds enough of it, and crops
    drawn anew until one holds enough of it. Shares of 3000 px of 2048 x 1024 and of 6000 px of a 1024 crop as published."""

    temperature: float = 0.01
    image_share: float = 3000 / (2048 * 1024)
    crop_share: float = 6000 / 1024**2

    def table(self, counts: NDArray[np.int64], pixels: float) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
        """(probability per class, rows that hold enough of it). A class that no image holds enough of is left out.

        Args:
            counts: (image, class).
            pixels: of a frame.
        """
        rows = [np.flatnonzero(counts[:, c] > self.image_share * pixels) for c in range(counts.shape[1])]
        share = counts.sum(0) / max(1, counts.sum())
        weight = np.exp((1 - share - (1 - share).max()) / self.temperature)
        weight = np.where([len(own) > 0 for own in rows], weight, 0.0)
        if weight.sum() == 0:
            raise DataError("no class has enough pixels in any training image; switch rare-class sampling off")
        return weight / weight.sum(), rows


class TrainingView:
    """Random crops of a data role; as many samples as the role has. Sample (seed, epoch, index) is a pure function of those.

    Args:
        dataset: a SegmentationDataset, or part of one.
        crop: side of the crops; smaller images are enlarged to it first.
        labelled: False gives no masks, whatever the data have.
        max_share: crops in which one class takes more than this share are drawn anew, up to TRIES times (1: never).
        rare: rare-class sampling instead of one crop of every image per epoch.
    """

    labels: Sequence[int] | None = None
    augmented = True
    crop: int
    max_share: float

    def __init__(
        self,
        dataset: Dataset,
        crop: int,
        labelled: bool = True,
        max_share: float = 1.0,
        rare: RareClasses | None = None,
    ) -> None:
        whole = dataset.base if isinstance(dataset, SubsetDataset) else dataset
        if not isinstance(whole, SegmentationDataset):
            raise UserError(
                "segmentation methods train on images with masks (--task segmentation); these data have none"
            )
        self.base: SegmentationDataset = whole
        self.rows: list[int] = list(dataset.indices) if isinstance(dataset, SubsetDataset) else list(range(len(whole)))
        self.ids: Sequence[str] = [whole.ids[row] for row in self.rows]
        self.crop, self.labelled, self.max_share, self.rare = crop, labelled, max_share, rare
        self._table: tuple[NDArray[np.float64], list[NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def without(self) -> list[str]:
        """Classes that rare-class sampling leaves out, because no image holds enough of them."""
        if self.rare is None:
            return []
        probability, _ = self._classes()
        return [self.base.classes[c] for c in np.flatnonzero(probability == 0)]

    def _classes(self) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
        if self._table is None:
            assert self.rare is not None
            first = self.base.pair(self.rows[0])[0]
            self._table = self.rare.table(self.base.counts[self.rows], first.shape[0] * first.shape[1])
        return self._table

    def sample(self, index: int, *, epoch: int | None, seed: int) -> dict[str, Any]:
        """image (3, crop, crop), mask (crop, crop) or None, box (row, column, rows, columns): the crop's corner in its frame."""
        rng = np.random.default_rng(generator(seed, "crop", epoch or 0, index).initial_seed())
        row, wanted = index, -1
        if self.rare is not None:
            probability, rows = self._classes()
            wanted = int(rng.choice(len(probability), p=probability))
            row = int(rng.choice(rows[wanted]))
        pixels, mask = self.base.pair(self.rows[row])
        mask = mask if self.labelled else None
        pixels, mask = self._scaled(pixels, mask, rng)
        high, wide = pixels.shape[:2]
        for _ in range(TRIES):
            top, left = int(rng.integers(high - self.crop + 1)), int(rng.integers(wide - self.crop + 1))
            own = None if mask is None else mask[top : top + self.crop, left : left + self.crop]
            if own is None or self._accepts(own, wanted):
                break
        part = pixels[top : top + self.crop, left : left + self.crop]
        if self.base.flip and rng.random() < 0.5:
            part, own = part[:, ::-1], None if own is None else own[:, ::-1]
            left = wide - self.crop - left
        target = None if own is None else torch.from_numpy(np.array(own)).long()
        name = self.ids[row]
        return {"image": self.base.normalise(part), "mask": target, "box": (top, left, high, wide), "id": name}

    def _accepts(self, mask: NDArray[np.uint8], wanted: int) -> bool:
        found = np.bincount(mask.ravel(), minlength=256)
        if wanted >= 0:
            assert self.rare is not None
            return bool(found[wanted] > self.rare.crop_share * mask.size)
        found = found[:IGNORE]
        return self.max_share >= 1 or bool(found.max() < self.max_share * max(1, found.sum()) and (found > 0).sum() > 1)

    def _scaled(
        self, pixels: NDArray[np.uint8], mask: NDArray[np.uint8] | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        low, high = self.base.scale
        factor = float(rng.uniform(low, high)) if high > low else low
        rows, columns = pixels.shape[:2]
        factor = max(factor, self.crop / rows, self.crop / columns)
        if factor == 1.0:
            return pixels, mask
        size = (max(self.crop, math.ceil(columns * factor)), max(self.crop, math.ceil(rows * factor)))
        image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        return image, None if mask is None else np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        batch = self.base.collate([self.rows[i] for i in index], samples)
        names = [sample["id"] for sample in samples]
        return replace(batch, index=torch.as_tensor(list(index)), ids=names)

    def identity(self) -> str:
        return self.base.identity()
