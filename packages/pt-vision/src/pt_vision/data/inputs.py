"""Unlabelled images for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pt_core.errors import DataError
from pt_core.run.data.inputs import input_files

from pt_vision.data.checks import Checked, bad_images, check, check_all, check_head
from pt_vision.data.dataset import ImageDataset
from pt_vision.data.images import BadImage, Source, colour, from_array, is_clutter


def input_images(items: Sequence[Any] | Any, skip_bad: bool = False, background: str = "white") -> ImageDataset:
    """Images in the order given: files, folders (searched to any depth), patterns such as `scans/*.png`, encoded bytes,
    PIL images, arrays and tensors (see `pt_vision.data.images.from_array`). One item or a list of them; an array or tensor
    with four axes is a list of images.

    Files are examined by their heads only, so that the first predictions do not wait for the last file; one that is
    damaged further on raises a DataError when it is reached. With `skip_bad` every file is decoded first, and bad ones
    are left out.

    Raises:
        DataError: nothing there, or images that cannot be read; all of them are listed.
    """
    rgb = colour(background)
    sources: list[Source] = []
    ids: list[str] = []
    unusable: dict[str, str] = {}
    listed = items if isinstance(items, (list, tuple)) else [items]
    many = [one for item in listed for one in (item if getattr(item, "ndim", 0) == 4 else [item])]
    for number, item in enumerate(many):
        if isinstance(item, (str, Path)):
            files = _pictures(Path(item))
            sources += files
            ids += [str(file) for file in files]
            continue
        ids.append(f"image-{number}")
        try:
            sources.append(item if isinstance(item, (Image.Image, bytes)) else np.asarray(from_array(item, rgb)))
        except (BadImage, TypeError) as error:
            sources.append(b"")
            unusable[ids[-1]] = str(error)
    if not ids:
        raise DataError("no input images are given")
    looks = check_all(sources, partial(check, background=rgb) if skip_bad else check_head)
    bad = [(name, unusable.get(name, look.problem)) for name, look in zip(ids, looks, strict=True) if look.problem]
    if bad and (not skip_bad or len(bad) == len(ids)):
        raise bad_images(bad, len(ids))
    rows = [row for row, look in enumerate(looks) if not look.problem]
    kept: list[Checked] | None = [looks[row] for row in rows] if skip_bad else None
    return ImageDataset(
        [sources[row] for row in rows],
        [ids[row] for row in rows],
        None,
        skipped=tuple(name for name, _ in bad),
        background=rgb,
        checked=kept,
    )


def _pictures(path: Path) -> list[Path]:
    return input_files(path, lambda file: not is_clutter(file, path), "image")
