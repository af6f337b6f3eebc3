"""A data set of images with stable ids and class indices, and its augmented views."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from pt_core.data import Batch, stable_seed
from pt_core.errors import DataError
from pt_core.run.data.labels import relabelled
from torch import Tensor

from pt_vision.data.checks import Checked, check, check_all
from pt_vision.data.images import WHITE, BadImage, Source, decode
from pt_vision.data.parts import Rows
from pt_vision.data.transforms import Augment, Transform, evaluation_transform, training_transform

KEPT_BYTES = 2**26
"""Bound of the evaluation views that a data set keeps in memory."""


@dataclass(eq=False)
class ImageDataset:
    """Images with class indices. It yields samples after `bind`. Its methods give new data sets and change none.

    Attributes:
        sources: files, encoded bytes or pixels.
        ids: paths as given, or names such as `train/12`.
        labels: one class index per image, or None for unlabelled images.
        classes: class names, which `labels` index.
        groups: one group name per image, or None.
        skipped: ids of unreadable images that were left out.
        notes: sentences on how the data were read.
        background: RGB behind transparent pixels.
    """

    sources: Sequence[Source]
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: Sequence[str] = ()
    groups: Sequence[str] | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    background: tuple[int, int, int] = WHITE
    transform: Transform | None = field(default=None, repr=False)
    augment: Transform | None = field(default=None, repr=False)
    checked: Sequence[Checked] | None = field(default=None, repr=False)
    _ready: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Evaluation views already computed, up to KEPT_BYTES: a small data set is decoded and resized once, not once per epoch."""

    @property
    def augmented(self) -> bool:
        """Whether samples differ between epochs."""
        return self.augment is not None

    def __len__(self) -> int:
        return len(self.ids)

    def picture(self, index: int) -> Image.Image:
        """The image as 8-bit RGB, in its original size.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return decode(self.sources[index], self.background)
        except BadImage as error:
            raise DataError(f"image {self.ids[index]!r} cannot be read: {error}") from None

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Tensor:
        """(channel, row, column) float32, normalised; the training view is a function of (seed, epoch, index).

        Raises:
            DataError: the image cannot be read, or `bind` was not called.
        """
        if self.transform is None:
            raise DataError("images become samples for one backbone: call dataset.bind(backbone.preprocessing) first")
        if epoch is not None and self.augment is not None:
            picture = self.picture(index)
            with torch.random.fork_rng(devices=[]):
                # Not torch.manual_seed: it would reseed the user's GPU generators, which are not forked here.
                torch.default_generator.manual_seed(stable_seed(seed, "augment", epoch, index))
                return self.augment(picture)
        if index not in self._ready:
            view = self.transform(self.picture(index))
            if (len(self._ready) + 1) * view.nbytes > KEPT_BYTES:
                return view
            self._ready[index] = view
        return self._ready[index]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        """inputs (batch, channel, row, column), target (batch,) int64 or None."""
        labels = self.labels
        target = None if labels is None else torch.tensor([labels[i] for i in index], dtype=torch.long)
        rows = torch.as_tensor(list(index), dtype=torch.long)
        return Batch(torch.stack(list(samples)), target, rows, [self.ids[i] for i in index])

    def bind(self, preprocessing: Mapping[str, Any], augment: Augment = "none") -> ImageDataset:
        """The same images as a backbone's inputs; see `pt_vision.data.transforms` for the keys and the augmentations."""
        drawn = None if augment == "none" else training_transform(preprocessing, augment)
        return replace(self, transform=evaluation_transform(preprocessing), augment=drawn)

    def subset(self, rows: Sequence[int]) -> ImageDataset:
        """Some of the images, renumbered."""
        return replace(
            self,
            sources=Rows(self.sources, rows),
            ids=[self.ids[row] for row in rows],
            labels=None if self.labels is None else [self.labels[row] for row in rows],
            groups=None if self.groups is None else [self.groups[row] for row in rows],
            checked=None if self.checked is None else [self.checked[row] for row in rows],
        )

    def relabel(self, classes: Sequence[str]) -> ImageDataset:
        """The same images with class indices into another list of names, such as that of a stored artifact.

        Raises:
            DataError: an image's class is not in the list.
        """
        labels = None if self.labels is None else relabelled(self.labels, self.classes, classes)
        return replace(self, classes=list(classes), labels=labels)

    @cached_property
    def _checks(self) -> Sequence[Checked]:
        return self.checked or check_all(self.sources, partial(check, background=self.background))

    def digests(self) -> list[str]:
        """One digest per image, over size and RGB pixels."""
        return [checked.pixels for checked in self._checks]

    def identity(self) -> str:
        """Digest of the files' bytes, the labels and the classes, in order."""
        total = hashlib.sha256(repr((list(self.classes), self.background)).encode())
        for index, checked in enumerate(self._checks):
            total.update(f"{checked.content} {None if self.labels is None else self.labels[index]}\n".encode())
        return total.hexdigest()
