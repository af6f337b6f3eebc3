"""Looking at many images before they are used: which cannot be read and why, and a digest of each."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pt_core.errors import DataError

from pt_vision.data.images import WHITE, BadImage, Source, decode, peek, why_unreadable


@dataclass(frozen=True)
class Checked:
    """What looking at an image gave.

    Attributes:
        content: digest of the file's bytes or the array; "" for a bad image and where only the head was read.
        pixels: digest of size and RGB pixels: equal for the same picture in another lossless format.
        problem: why the image cannot be used, or None.
    """

    content: str = ""
    pixels: str = ""
    problem: str | None = None


def check(source: Source, background: tuple[int, int, int] = WHITE) -> Checked:
    """Decode an image completely and digest it."""
    try:
        if isinstance(source, Path):
            content = source.read_bytes()
            image = decode(content, background)
        else:
            content, image = _raw_bytes(source), decode(source, background)
    except OSError as error:
        return Checked(problem=why_unreadable(source, error) if isinstance(source, Path) else str(error))
    except BadImage as error:
        return Checked(problem=str(error))
    return Checked(_digest(content), _digest(repr(image.size).encode(), image.tobytes()))


def check_head(source: Source) -> Checked:
    """Look at an image's head only; nothing is digested."""
    try:
        peek(source)
    except BadImage as error:
        return Checked(problem=str(error))
    return Checked()


def check_all(sources: Sequence[Source], look: Callable[[Source], Checked]) -> list[Checked]:
    """`look` at every image, several at a time, with a bar where it takes more than 2 s."""
    from tqdm import tqdm

    # Set here and not per image: the filters of `warnings` belong to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = pool.map(lambda index: look(sources[index]), range(len(sources)))
        return list(tqdm(results, total=len(sources), desc="checking images", disable=None, leave=False, delay=2))


def bad_images(
    bad: Sequence[tuple[str, str | None]], total: int, hint: str = "mend or remove them", shown: int = 10
) -> DataError:
    """The error that lists unusable images, given as (name, why)."""
    listed = ", ".join(f"{name} ({why})" for name, why in bad[:shown])
    more = f" and {len(bad) - shown} more" if len(bad) > shown else ""
    return DataError(f"{len(bad)} of {total} images cannot be read: {listed}{more}; {hint}")


def _raw_bytes(source: bytes | np.ndarray | Image.Image) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, Image.Image):
        return repr((source.size, source.mode, source.getpalette())).encode() + source.tobytes()
    return repr((source.shape, str(source.dtype))).encode() + np.ascontiguousarray(source).tobytes()


def _digest(*parts: bytes) -> str:
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(part)
    return total.hexdigest()
