"""Masks of images: in memory, or in PNG files as indices or colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pt_core.errors import DataError

IGNORE = 255
"""Mask value that no class has: such pixels count nowhere."""


class Masks(Protocol):
    """Reads the mask of an image as class indices."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """(row, column), IGNORE where there is no class.

        Raises:
            DataError: it cannot be read, or has a value that is no class; names file and value.
        """
        ...


class RenamedMasks:
    """The same masks over another list of classes: `table` maps the index of the one to that of the other."""

    def __init__(self, base: Masks, table: NDArray[np.uint8]) -> None:
        self.base, self.table = base, table

    def __len__(self) -> int:
        return len(self.base)

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.table[self.base.read(index)]


class ArrayMasks:
    """Masks held in memory."""

    def __init__(self, arrays: Sequence[NDArray[np.uint8]]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.arrays[index]


class FileMasks:
    """Masks in PNG files: indices (grey or palette images), or colours that a class file gives.

    Args:
        files: one per image.
        names: lines of the class file, `ignore` among them; None takes every value below `classes` as it is.
        colours: one per line, or None.
        ignored: values that count nowhere.
    """

    def __init__(
        self,
        files: Sequence[Path],
        names: Sequence[str] | None,
        colours: Sequence[tuple[int, int, int] | None],
        ignored: set[int],
    ) -> None:
        self.files, self.ignored = files, ignored
        self.classes = None if names is None else len(names)
        self.table = np.full(256, 254, dtype=np.uint8)  # 254: no class
        position = 0
        for line, name in enumerate(names if names is not None else [str(n) for n in range(254)]):
            if name.lower() == "ignore":
                self.table[line] = IGNORE
            else:
                self.table[line], position = position, position + 1
        self.table[sorted(ignored)] = IGNORE
        self.palette = {rgb: line for line, rgb in enumerate(colours) if rgb is not None}

    def __len__(self) -> int:
        return len(self.files)

    def _values(self, index: int) -> NDArray[np.uint8]:
        path = self.files[index]
        try:
            with Image.open(path, formats=["PNG"]) as image:
                mode, values = (
                    image.mode,
                    np.asarray(image if image.mode in ("L", "P", "1", "I;16", "I") else image.convert("RGB")),
                )
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise DataError(f"mask {path} cannot be read: {' '.join(str(error).split())[:100]}") from None
        if values.ndim == 2:
            if values.max(initial=0) > 255:
                raise DataError(f"mask {path} has value {int(values.max())}; indices of classes are at most 254")
            return values.astype(np.uint8)
        if not self.palette:
            raise DataError(
                f"mask {path} is a {mode} image; give 8-bit indices, or a class file with a colour (R G B) behind every name"
            )
        flat = values.reshape(-1, 3).astype(np.int64) @ np.array([65536, 256, 1])
        out = np.full(len(flat), 254, dtype=np.uint8)
        for (r, g, b), line in self.palette.items():
            out[flat == r * 65536 + g * 256 + b] = line
        if (out == 254).any():
            place = int(np.flatnonzero(out == 254)[0])
            colour_ = tuple(int(v) for v in values.reshape(-1, 3)[place])
            raise DataError(f"mask {path} has colour {colour_} {_at(place, values.shape[1])}, which no class has")
        return out.reshape(values.shape[:2])

    def largest(self) -> int:
        """The largest value that is not ignored."""
        return max(
            (int(v) for i in range(len(self)) for v in np.unique(self._values(i)) if int(v) not in self.ignored),
            default=0,
        )

    def read(self, index: int) -> NDArray[np.uint8]:
        values = self._values(index)
        classes = self.table[values]
        if (classes == 254).any():
            place = int(np.flatnonzero(classes.ravel() == 254)[0])
            raise DataError(
                f"mask {self.files[index]} has value {int(values.ravel()[place])} {_at(place, values.shape[1])}, which no class has "
                f"(classes are 0..{(self.classes or 1) - 1}; further values to leave out: --ignore-values)"
            )
        return classes


def _at(place: int, columns: int) -> str:
    return f"at row {place // columns}, column {place % columns}"
