"""Image data sets with stable ids and classes, and their augmented views."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from PIL import Image
from pt_core.data import Batch, stable_seed
from pt_core.errors import DataError, nearest
from torch import Tensor

from pt_vision.images import WHITE, BadImage, Checked, Source, bad_images, check, check_all, colour, decode
from pt_vision.segmentation.options import SegmentationOptions
from pt_vision.sources import Found, Part, Rows, read
from pt_vision.transforms import Augment, Transform, evaluation_transform, training_transform


@dataclass(frozen=True)
class DataOptions(SegmentationOptions):
    """How image data are read."""

    image_column: str | None = None
    """Column with the image: a path relative to the table, or encoded bytes (default: path, image, img, jpeg ...)."""
    label_column: str | None = None
    """Column with the class (default: label, class, target, category)."""
    split_column: str | None = None
    """Column with train, val or test (default: split, where there is one)."""
    group_column: str | None = None
    """Column (npz: arrays NAME_train ...) of a patient or subject; splits keep every group on one side."""
    where: tuple[str, ...] = ()
    """Use only rows with COLUMN=VALUE or COLUMN!=VALUE; several values with |. All conditions must hold."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training part that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    skip_bad: bool = False
    """Leave out unreadable images (counted) instead of stopping."""
    background: str = "white"
    """Colour behind transparent pixels: a name or #rrggbb."""
    augment: Literal["none", "flip", "standard", "medical"] = "none"
    """Augmentation of the training view; `none` lets frozen features be cached."""
    image_size: Annotated[int, Ge(1)] | None = None
    """Input size of the backbone in pixels, where it can be changed when the backbone is loaded."""


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
        """The same images as a backbone's inputs; see `pt_vision.transforms` for the keys and the augmentations."""
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
        if self.labels is None:
            return replace(self, classes=list(classes))
        position = {name: index for index, name in enumerate(classes)}
        present = [self.classes[label] for label in sorted(set(self.labels))]
        unknown = [f"{name!r}{nearest(name, classes)}" for name in present if name not in position]
        if unknown:
            raise DataError(f"the data have classes that are not among the known ones: {', '.join(unknown[:8])}")
        return replace(self, classes=list(classes), labels=[position[self.classes[label]] for label in self.labels])

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


def load_images(spec: str, options: DataOptions | None = None) -> dict[str, ImageDataset]:
    """The parts train, val and test (where there are such) behind a path, `hub:NAME` or `builtin:NAME`.

    All parts share one list of classes: the data's own, or the sorted names in the training part (numerically, if all
    are whole numbers). Undivided data are the single part train.

    Raises:
        DataError: unreadable images (all are listed), a missing column, or classes of a part that training lacks.
        UserError: the path does not exist, is of no known kind, or the hub cannot be reached.
    """
    options = options or DataOptions()
    background = colour(options.background)
    conditions = [_condition(text) for text in options.where]
    group = options.group_column
    found = read(spec, options, list(dict.fromkeys([name for name, _, _ in conditions] + ([group] if group else []))))
    _filter(found, conditions, spec)
    return _datasets(found, options, background, group, spec)


def _condition(text: str) -> tuple[str, bool, list[str]]:
    """(column, whether the values are wanted, values)."""
    name, equal, values = text.partition("=")
    if not equal or not name.strip("! "):
        raise DataError(f"--where {text!r} is not of the form COLUMN=VALUE or COLUMN!=VALUE")
    return name.removesuffix("!").strip(), not name.endswith("!"), [value.strip() for value in values.split("|")]


def _filter(found: Found, conditions: Sequence[tuple[str, bool, list[str]]], spec: str) -> None:
    for name, _, values in conditions:
        known = sorted({value for part in found.parts.values() for value in part.columns[name]})
        unknown = [f"{value!r}{nearest(value, known)}" for value in values if value not in known]
        if unknown:
            raise DataError(
                f"column {name!r} of {spec} never is {', '.join(unknown)}; it holds {', '.join(known[:12])}"
            )
    for name, wanted, values in conditions:
        for role, part in list(found.parts.items()):
            rows = [row for row, value in enumerate(part.columns[name]) if (value in values) == wanted]
            found.parts[role] = _take(part, rows)
            if not rows:
                del found.parts[role]
                found.notes.append(f"no row of the {role} part of {spec} passes --where")
    if not found.parts:
        raise DataError(f"no row of {spec} passes all --where conditions")


def _take(part: Part, rows: Sequence[int]) -> Part:
    columns = {name: [values[row] for row in rows] for name, values in part.columns.items()}
    return Part(Rows(part.sources, rows), [part.ids[row] for row in rows], [part.labels[row] for row in rows], columns)


def _datasets(
    found: Found, options: DataOptions, background: tuple[int, int, int], group: str | None, spec: str
) -> dict[str, ImageDataset]:
    """Check all images of all parts, then give every part the common classes."""
    looks = {role: check_all(part.sources, partial(check, background=background)) for role, part in found.parts.items()}
    bad = [
        (part.ids[row], look.problem)
        for role, part in found.parts.items()
        for row, look in enumerate(looks[role])
        if look.problem is not None
    ]
    total = sum(len(part.ids) for part in found.parts.values())
    if bad and (not options.skip_bad or len(bad) == total):
        raise bad_images(bad, total, "mend or remove them, or leave them out with --skip-bad")
    if bad:
        found.notes.append(f"{len(bad)} of {total} images of {spec} cannot be read and are left out")
    result: dict[str, ImageDataset] = {}
    classes = found.classes
    for role, part in found.parts.items():
        rows = [row for row, look in enumerate(looks[role]) if look.problem is None]
        good = _take(part, rows)
        skipped = tuple(part.ids[row] for row, look in enumerate(looks[role]) if look.problem is not None)
        if not rows:
            continue
        if classes is None:  # the first part is train, where there is one
            classes = sort_names(good.labels)
        position = {name: index for index, name in enumerate(classes)}
        unknown = [name for name in sort_names(good.labels) if name not in position]
        if unknown:
            names = ", ".join(f"{name!r}{nearest(name, classes)}" for name in unknown[:8])
            raise DataError(f"the {role} part of {spec} has classes that the training part lacks: {names}")
        groups = None if group is None else good.columns[group]
        if groups is not None and not all(groups):
            raise DataError(f"{sum(not name for name in groups)} images of the {role} part of {spec} have no {group!r}")
        result[role] = ImageDataset(
            good.sources,
            good.ids,
            [position[name] for name in good.labels],
            classes,
            groups,
            skipped,
            background=background,
            checked=[looks[role][row] for row in rows],
        )
    first = next(iter(result))
    result[first] = replace(result[first], notes=tuple(found.notes))
    return result


def sort_names(names: Sequence[str]) -> list[str]:
    """Distinct names in order: numerically if all are whole numbers, else by their characters."""
    distinct = set(names)
    if all(name.isascii() and name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)
