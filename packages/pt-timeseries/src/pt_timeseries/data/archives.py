"""What a NumPy archive holds, checked: arrays by name, labels, and which array names the domains."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pt_core.errors import DataError, nearest

from pt_timeseries.data.cells import class_texts, name_texts
from pt_timeseries.data.gaps import stacked

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "test", "valid": "test"}
"""Names in `split` -> part; a validation part is held out."""


def load_arrays(path: Path) -> tuple[dict[str, Any], bool]:
    """(arrays by name, whether they came in two parts), never unpickling; those of `x_train`, `x_test` are joined to `x`, with the part of
    every window in `split`.

    Raises:
        DataError: not an archive, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
        TypeError,
        NotImplementedError,
    ) as error:
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read as a NumPy archive ({reason})") from None
    lower = {name.lower(): name for name in arrays}
    if "x" not in arrays and {"x_train", "x_test"} <= set(lower):
        return _joined({name: arrays[own] for name, own in lower.items()}, path), True
    return arrays, False


def _joined(arrays: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`NAME_train` and `NAME_test` one behind the other; series may be of different length."""
    found = {name: value for name, value in arrays.items() if not name.endswith(("_train", "_test"))}
    names = [name.removesuffix("_train") for name in arrays if name.endswith("_train")]
    sizes = [len(numbers(arrays[f"x_{part}"], f"x_{part}", path)) for part in ("train", "test")]
    for name in names:
        if f"{name}_test" not in arrays:
            raise DataError(f"{path} has an array {name}_train and no {name}_test")
        sides = [np.asarray(arrays[f"{name}_{part}"]) for part in ("train", "test")]
        for side, part, size in zip(sides, ("train", "test"), sizes, strict=True):
            if side.ndim == 0 or len(side) != size:
                raise DataError(
                    f"{path}: array {name}_{part} has shape {side.shape}; one entry for each of {size} windows is needed"
                )
        if name != "x":
            found[name] = np.concatenate(
                [side[:, 0] if side.ndim == 2 and side.shape[1] == 1 else side for side in sides]
            )
            continue
        sides = [side[:, None] if side.ndim == 2 else side for side in sides]
        if {side.ndim for side in sides} != {3}:
            raise DataError(f"{path}: x_train and x_test must be (window, step) or (window, channel, step)")
        try:
            found["x"] = stacked([window for side in sides for window in side])
        except DataError:
            raise DataError(f"{path}: x_train has {sides[0].shape[1]} channels, x_test {sides[1].shape[1]}") from None
    found["split"] = np.array(["train"] * sizes[0] + ["test"] * sizes[1])
    return found


def numbers(values: Any, name: str, path: Path) -> Any:
    """An array of numbers with an axis of entries.

    Raises:
        DataError: it is none.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "fiu" or found.ndim == 0:
        raise DataError(
            f"array {name!r} of {path} holds {found.dtype} of shape {found.shape}, not numbers of windows or steps"
        )
    return found


def labels_of(arrays: Mapping[str, Any], path: Path) -> list[str] | None:
    """A class per entry; `classes` names them where the labels are their numbers.

    Raises:
        DataError: an empty label, a list, a number to predict, or one that is no place in `classes`.
    """
    key = next((name for name in ("y", "label", "labels") if name in arrays), None)
    if key is None:
        return None
    found = np.asarray(arrays[key])
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise DataError(f"{path}: labels {key!r} have shape {found.shape}; one class per entry is needed")
    names = class_order(arrays, path)
    texts = class_texts(found.tolist(), f"label {key!r}", lambda row: f"{path}, entry {row}")
    if names is None or found.dtype.kind not in "iuf":
        return texts
    places = [int(text) for text in texts]
    if places and not 0 <= min(places) <= max(places) < len(names):
        raise DataError(f"{path}: labels run from {min(places)} to {max(places)}, but there are {len(names)} classes")
    return [names[place] for place in places]


def class_order(arrays: Mapping[str, Any], path: Path) -> list[str] | None:
    """The names in `classes`, in order.

    Raises:
        DataError: it is no list of different names.
    """
    if "classes" not in arrays:
        return None
    found = np.asarray(arrays["classes"])
    if found.ndim != 1:
        raise DataError(f"{path}: array 'classes' has shape {found.shape}; a list of names is needed")
    names = class_texts(found.tolist(), "class name", lambda row: f"{path}, 'classes' entry {row}")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: array 'classes' names a class twice")
    return names


def names_of(arrays: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """Texts of an array that names domains or recordings.

    Raises:
        DataError: an empty entry.
    """
    return name_texts(np.asarray(arrays[key]).tolist(), f"array {key!r}", lambda row: f"{path}, entry {row}")


def parts_of(arrays: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """`train` or `test` per entry.

    Raises:
        DataError: another name.
    """
    found = names_of(arrays, key, path)
    unknown = sorted({name for name in found if name.lower() not in PARTS})
    if unknown:
        raise DataError(f"{path}: array {key!r} holds {unknown[0]!r}; use train and test")
    return [PARTS[name.lower()] for name in found]


def key_of(
    arrays: Mapping[str, Any],
    asked: str | None,
    usual: tuple[str, ...],
    size: int,
    path: Path,
    what: str,
    optional: bool = False,
) -> str | None:
    """The array with one entry per window (or recording) that names its domain or group.

    Raises:
        DataError: it is asked for and not there, or has another number of entries.
    """
    if asked is not None and asked not in arrays:
        raise DataError(f"{path} has no array {asked!r}{nearest(asked, arrays)}; it has: {', '.join(arrays)}")
    key = asked or next((name for name in usual if name in arrays), None)
    if key is None or (optional and asked is None and np.shape(arrays[key]) != (size,)):
        return None
    if np.shape(arrays[key]) != (size,):
        raise DataError(
            f"{path}: array {key!r} has shape {np.shape(arrays[key])}; a {what} needs one entry for each of {size}"
        )
    return key
