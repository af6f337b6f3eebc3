"""A data set of images with masks and conditions, and its evaluation view."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pt_core.data import Batch, Dataset
from pt_core.errors import DataError
from pt_core.run.data.labels import relabelled
from torch import Tensor

from pt_vision.data.checks import check_all
from pt_vision.data.images import WHITE, BadImage, Source, decode
from pt_vision.segmentation.data.masks import IGNORE, Masks, RenamedMasks

KEPT_BYTES = 2**28
"""Bound of the decoded pictures and masks that a data set keeps in memory."""


@dataclass(frozen=True)
class Seen:
    """What decoding an image and its mask once gave: digests of the pixels and of both, and labelled pixels per mask value."""

    pixels: str
    content: str
    counts: NDArray[np.int64]


@dataclass(eq=False)
class SegmentationDataset:
    """Images, and a mask for each unless they are unlabelled. Its methods give new data sets and change none.

    Attributes:
        sources: files, encoded bytes or pixels.
        ids: paths as given.
        masks: one mask per image, or None.
        classes: class names, which masks index.
        condition: one name per image, such as `fog`; empty where unknown.
        preprocessing: mean and std of the backbone; None before `bind`.
    """

    sources: Sequence[Source]
    ids: Sequence[str]
    masks: Masks | None
    classes: Sequence[str]
    condition: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    background: tuple[int, int, int] = WHITE
    resize: tuple[int, int] | None = None
    preprocessing: Mapping[str, Any] | None = field(default=None, repr=False)
    flip: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    labels: Sequence[int] | None = None
    augmented: bool = True
    seen: Sequence[Seen] | None = field(default=None, repr=False)
    _kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8] | None]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def conditions(self) -> list[str]:
        """The names that occur, sorted."""
        return sorted({name for name in self.condition if name})

    def picture(self, index: int) -> Image.Image:
        """The image as 8-bit RGB, resized where `resize` says so.

        Raises:
            DataError: it cannot be read.
        """
        return Image.fromarray(self.pair(index)[0])

    def pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """(row, column, 3) pixels and (row, column) classes or None; decoded once while they fit KEPT_BYTES.

        Raises:
            DataError: one cannot be read, or they differ in size.
        """
        if index in self._kept:
            return self._kept[index]
        try:
            image = decode(self.sources[index], self.background)
        except BadImage as error:
            raise DataError(f"image {self.ids[index]!r} cannot be read: {error}") from None
        mask = None if self.masks is None else self.masks.read(index)
        if mask is not None and mask.shape != (image.height, image.width):
            raise DataError(
                f"image {self.ids[index]!r} is {image.height}x{image.width}, its mask {mask.shape[0]}x{mask.shape[1]}"
            )
        if self.resize is not None and (image.height, image.width) != self.resize:
            size = (self.resize[1], self.resize[0])
            image = image.resize(size, Image.Resampling.BILINEAR)
            mask = None if mask is None else np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        pair = (np.array(image), None if mask is None else np.array(mask))
        if (len(self._kept) + 1) * 4 * pair[0].shape[0] * pair[0].shape[1] <= KEPT_BYTES:
            self._kept[index] = pair
        return pair

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(row, column, 3) uint8 -> (3, row, column) float32."""
        if self.preprocessing is None:
            raise DataError("images become samples for one backbone: call dataset.bind(backbone.preprocessing) first")
        mean, std = (
            torch.tensor(self.preprocessing[key], dtype=torch.float32).view(3, 1, 1) for key in ("mean", "std")
        )
        return (torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255 - mean) / std

    def sample(self, index: int, *, epoch: int | None, seed: int) -> dict[str, Any]:
        """The whole image as `image` (3, row, column), its mask as `mask` (row, column) or None. Not augmented: methods train on
        `TrainingView`s."""
        pixels, mask = self.pair(index)
        return {"image": self.normalise(pixels), "mask": None if mask is None else torch.from_numpy(mask).long()}

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        """inputs (batch, 3, row, column), target (batch, row, column) or None. Images of several sizes are padded at the lower and right
        edge (target: ignored), and extra["size"] tells their own sizes."""
        sizes = [tuple(sample["image"].shape[1:]) for sample in samples]
        high, wide = (max(size[axis] for size in sizes) for axis in (0, 1))
        extra: dict[str, Any] = {"condition": [self._condition(i) for i in index], "conditions": self.conditions}
        if len(set(sizes)) > 1:
            extra["size"] = torch.tensor(sizes)

        def padded(x: Tensor, value: float) -> Tensor:
            return torch.nn.functional.pad(x, (0, wide - x.shape[-1], 0, high - x.shape[-2]), value=value)

        images = torch.stack([padded(sample["image"], 0.0) for sample in samples])
        labelled = all(sample["mask"] is not None for sample in samples)
        target = torch.stack([padded(sample["mask"], IGNORE) for sample in samples]) if labelled else None
        if "box" in samples[0]:
            extra["box"] = torch.tensor([sample["box"] for sample in samples])
        return Batch(images, target, torch.as_tensor(list(index)), [self.ids[i] for i in index], extra)

    def _condition(self, index: int) -> str:
        return self.condition[index] if self.condition else ""

    def bind(
        self, preprocessing: Mapping[str, Any], flip: bool = False, scale: tuple[float, float] = (1.0, 1.0)
    ) -> SegmentationDataset:
        bound = replace(self, preprocessing=preprocessing, flip=flip, scale=scale)
        bound._kept = self._kept
        return bound

    def relabel(self, classes: Sequence[str]) -> SegmentationDataset:
        """The same images with masks that index another list of names, such as that of a stored artifact.

        Raises:
            DataError: a class is not in the list.
        """
        if self.masks is None:
            return replace(self, classes=list(classes))
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[: len(self.classes)] = relabelled(range(len(self.classes)), self.classes, classes)
        return replace(self, classes=list(classes), masks=RenamedMasks(self.masks, table), seen=None)

    def look(self) -> Sequence[Seen]:
        """Decode every image and mask, once and several at a time.

        Raises:
            DataError: the first that cannot be used, by name.
        """
        if self.seen is None:
            self.seen = check_all(cast("Any", range(len(self))), cast("Any", self._look))  # type: ignore[assignment]
        assert self.seen is not None
        return self.seen

    def _look(self, index: int) -> Seen:
        pixels, mask = self.pair(index)
        own = hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16)
        both = own.copy()
        counts = np.zeros(256, dtype=np.int64)
        if mask is not None:
            both.update(mask.tobytes())
            counts = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
        return Seen(own.hexdigest(), both.hexdigest(), counts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(image, class) labelled pixels."""
        return np.stack([seen.counts for seen in self.look()])[:, : len(self.classes)]

    def digests(self) -> list[str]:
        """One digest per image, over size and pixels."""
        return [seen.pixels for seen in self.look()]

    def identity(self) -> str:
        """Digest of pixels, masks and classes, in order."""
        text = repr((list(self.classes), self.resize, [seen.content for seen in self.look()]))
        return hashlib.sha256(text.encode()).hexdigest()


def bind_pixels(
    dataset: Any, preprocessing: Mapping[str, Any], augment: str, low: float | None, high: float | None
) -> Dataset:
    """The data with a backbone's normalisation, and the flips and scales of training crops.

    Raises:
        DataError: an augmentation that masks do not take, or an empty range of scales.
    """
    if augment not in ("none", "flip", "standard"):
        raise DataError(f"augment={augment!r} is for classification; images with masks take none, flip and standard")
    usual = (0.5, 2.0) if augment == "standard" else (1.0, 1.0)
    scale = (usual[0] if low is None else low, usual[1] if high is None else high)
    if scale[0] > scale[1]:
        raise DataError(f"scale_min={scale[0]:g} is above scale_max={scale[1]:g}")
    bound: Dataset = dataset.bind(preprocessing, flip=augment != "none", scale=scale)
    return bound
