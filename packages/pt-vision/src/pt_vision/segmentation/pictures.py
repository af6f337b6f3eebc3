"""Pictures of segmentations for the report: image, truth, prediction and error side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pt_vision.segmentation.data.masks import IGNORE

WIDTH = 176
"""Largest width of a tile in pixels."""


def palette(classes: int) -> NDArray[np.uint8]:
    """(256, 3) well separated colours for class indices; IGNORE is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for index in range(min(classes, IGNORE)):
        hue = (index * 0.61803) % 1.0  # golden-ratio steps keep neighbours apart
        light, strong = (0.55, 0.95, 0.75)[index % 3], (0.85, 0.55, 0.7)[index % 3]
        phase = (np.array([0.0, 1 / 3, 2 / 3]) + hue) * 2 * np.pi
        table[index] = (255 * light * (1 - strong * (0.5 - 0.5 * np.cos(phase)))).clip(0, 255)
    return table


def png(image: Image.Image, width: int = WIDTH) -> bytes:
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def comparison(pixels: NDArray[np.uint8], truth: Any, predicted: NDArray[np.uint8], classes: int) -> bytes:
    """Two by two: image and truth above, prediction and error (red: wrong, grey: right, black: not labelled) below."""
    colours = palette(classes)
    wrong = np.where(
        (truth == IGNORE)[..., None], 0, np.where((truth != predicted)[..., None], (210, 30, 30), (200, 200, 200))
    )
    tiles = [pixels, colours[truth], colours[predicted], wrong.astype(np.uint8)]
    shrink = max(1, -(-pixels.shape[1] // WIDTH))
    tiles = [np.pad(tile[::shrink, ::shrink], ((1, 1), (1, 1), (0, 0)), constant_values=255) for tile in tiles]
    whole = np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)], 0)
    return png(Image.fromarray(whole), whole.shape[1])


def legend(names: Sequence[str]) -> bytes:
    """A square of each class's colour beside its name."""
    line, width, columns = 13, 104, 1 if len(names) <= 10 else 2
    per_column = -(-len(names) // columns)
    image = Image.new("RGB", (width * columns, line * per_column + 4), "white")
    draw, colours = ImageDraw.Draw(image), palette(len(names))
    for number, name in enumerate(names):
        x, y = width * (number // per_column) + 3, line * (number % per_column) + 3
        draw.rectangle((x, y, x + 9, y + 9), fill=tuple(int(v) for v in colours[number]))
        draw.text((x + 14, y - 1), name[:14], fill="black")
    return png(image)
