"""Small images and folders of them for the data tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    """(row, column, 3) uint8, smooth enough to survive JPEG, different for every number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3)).astype(np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BILINEAR))


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(root: Path, parts: dict[str, dict[str, int]]) -> Path:
    """parts: sub-path -> class -> number of images."""
    number = 0
    for part, classes in parts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(number)).save(root / part / name / f"{i}.png")
                number += 1
    return root
