"""Decoding images: whatever the file holds becomes 8-bit RGB, by stated rules, or is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from pt_core.errors import DataError

Source = Path | bytes | np.ndarray | Image.Image
"""An image as it is kept: a file, encoded bytes, pixels, or a decoded image."""

FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF", "ICO")
"""Formats that are read. Others of Pillow's are not: some start programs (EPS), some accept nearly any bytes (TGA)."""
CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}
"""Files and folders that systems leave behind; like names starting with a dot they are no data."""
WHITE = (255, 255, 255)


class BadImage(ValueError):
    """Why an image cannot be used, short enough for a list."""


def colour(name: str) -> tuple[int, int, int]:
    """The RGB value of a colour name or `#rrggbb`.

    Raises:
        DataError: not a colour.
    """
    try:
        value = ImageColor.getrgb(name)
    except ValueError:
        raise DataError(f"--background {name!r} is not a colour; use a name such as white, or #rrggbb") from None
    return value[0], value[1], value[2]


def is_clutter(path: Path, root: Path) -> bool:
    """Whether a file below `root` is hidden or left behind by a system."""
    return any(part.startswith(".") or part.lower() in CLUTTER for part in path.relative_to(root).parts)


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """8-bit RGB of the first frame, turned upright by its EXIF orientation.

    Grey is repeated. 16-bit grey is scaled by 1/257, so that 65535 becomes 255 (Pillow's own conversion clips at 255);
    32-bit integers within 0..65535 are taken as 16-bit grey, which some Pillow versions read so. Transparency is
    composited on `background`. CMYK takes Pillow's plain conversion, without colour profiles. Floats are in 0..1.

    Raises:
        BadImage: integers or floats outside these ranges.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise BadImage(f"integer pixels from {values.min()} to {values.max()}, outside 0..65535")
        return Image.fromarray(_from_16_bit(values)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_from_float(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*background, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(source: Source, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Read an image completely, as 8-bit RGB (see `to_rgb` and `from_array`).

    Raises:
        BadImage: not an image, truncated, too large, missing, or with pixels of unknown range.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source, background)
    if isinstance(source, np.ndarray):
        return from_array(source, background)
    return _open(source, lambda image: to_rgb(image, background))


def peek(source: Source) -> None:
    """Read no more than the head of a file.

    Raises:
        BadImage: as `decode`, except for damage further on.
    """
    if isinstance(source, (Path, bytes)):
        _open(source, lambda image: image)


def _open(source: Path | bytes, use: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                raise BadImage(f"{pixels:,} pixels, more than the limit of {limit:,}")
            return use(image)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise BadImage(why_unreadable(source, error)) from None


def why_unreadable(source: Path | bytes, error: Exception) -> str:
    """What an error while reading means, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "may not be read"
    if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
        return "empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more pixels than the limit of {Image.MAX_IMAGE_PIXELS:,}"
    text = " ".join(str(error).split())
    return "truncated" if "truncated" in text.lower() else text[:80] or type(error).__name__


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def from_array(array: Any, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """An image from pixels: uint8, uint16 (scaled by 1/257), bool, or floats in [0, 1].

    array: (row, column), (row, column, 1 | 3 | 4) or (1 | 3, row, column); a fourth channel is the opacity. A torch
    tensor with three axes is always read as (1 | 3 | 4, row, column).

    Raises:
        BadImage: another shape, type or range.
    """
    tensor = hasattr(array, "detach")
    if tensor:
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array  # NumPy has no bfloat16
    values = np.asarray(array)
    first = (1, 3, 4) if tensor else (1, 3)
    if values.ndim == 3 and values.shape[0] in first and (tensor or values.shape[-1] not in (1, 3, 4)):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] not in (3, 4)) or values.size == 0:
        raise BadImage(f"an array of shape {values.shape} is not an image")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    elif values.dtype.kind == "f":
        values = _from_float(values)
    elif values.dtype == np.uint16:
        values = _from_16_bit(values)
    elif values.dtype != np.uint8:
        raise BadImage(f"pixels of type {values.dtype}; use uint8, uint16 or floats in [0, 1]")
    return to_rgb(Image.fromarray(np.ascontiguousarray(values)), background)


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    return np.round(values / 257).astype(np.uint8)


def _from_float(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise BadImage("pixels that are NaN or infinite")
    if values.min() < 0 or values.max() > 1:
        raise BadImage(f"floating-point pixels from {values.min():g} to {values.max():g}, outside 0..1")
    return np.round(values * 255).astype(np.uint8)
