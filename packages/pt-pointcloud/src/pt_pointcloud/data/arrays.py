"""Arrays of many clouds: .npz and .h5 files, one per role or one for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError, nearest, require

from pt_pointcloud.data.found import ARRAY_FILES, ROLES, Found, Part, check_classes, listed, named, role_of
from pt_pointcloud.data.normalise import check_cloud
from pt_pointcloud.options import DataOptions

POINTS = ("points", "data", "xyz", "pos", "pc")
LABELS = ("y", "label", "labels", "class")
PARTS = ("parts", "seg", "pid", "part")
LARGEST = 4 * 10**9
"""Bytes of one array; a header that says more is not read."""


def array_parts(folder: Path) -> dict[str, Path]:
    """role -> file, for a folder with train.npz, test.npz ... (or .h5)."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        role = role_of(path.stem) if path.suffix in ARRAY_FILES else None
        if role is not None:
            if role in found:
                raise DataError(f"{folder} has {found[role].name} and {path.name} for the {role} part; keep one")
            found[role] = path
    return {role: found[role] for role in ROLES if role in found}


def read_arrays(
    files: Mapping[str, Sequence[Path]],
    options: DataOptions,
    classes: list[str] | None = None,
    part_names: list[str] | None = None,
) -> Found:
    """The files of every role, one behind the other: points (sample, point, 3 or more), labels (sample,), optionally parts (sample, point),
    `classes` and `part_names`.

    Args:
        classes, part_names: names by number, where the files do not say them.

    Raises:
        DataError: a missing array, shapes that do not fit, or labels that are no class numbers or names.
    """
    found = Found({}, part_names=part_names)
    for role, path in ((role, path) for role, paths in files.items() for path in paths):
        arrays = _load(path)
        points = _pick(arrays, POINTS, None, "points", path)
        labels = _pick(arrays, LABELS, options.label_column, "--label-column", path)
        if points is None or labels is None:
            missing, usual = ("points", POINTS) if points is None else ("labels", LABELS)
            raise DataError(
                f"{path} has no {missing}: none of the arrays {listed(usual)}; it has {listed(sorted(arrays))}"
            )
        if points.ndim != 3 or points.shape[2] < 3:
            raise DataError(f"{path}: the points have shape {points.shape}; expected (sample, point, 3)")
        labels = labels.reshape(-1)
        if len(labels) != len(points):
            raise DataError(f"{path}: {len(labels)} labels for {len(points)} clouds")
        own = _names(arrays.get("classes")) or classes
        found.classes = found.classes or own
        found.part_names = found.part_names or _names(arrays.get("part_names"))
        part = found.roles.setdefault(role or "train", Part())
        part.clouds += [check_cloud(cloud[:, :3], f"{path.stem}/{n}") for n, cloud in enumerate(points)]
        part.ids += [f"{path.stem}/{n}" for n in range(len(points))]
        part.labels += [_label(value, own, f"{path}: cloud {n}") for n, value in enumerate(labels.tolist())]
        parts = _pick(arrays, PARTS, options.part_column, "--part-column", path)
        if parts is not None:
            if (
                parts.shape != points.shape[:2]
                or not np.issubdtype(parts.dtype, np.integer)
                or parts.min(initial=0) < 0
            ):
                raise DataError(
                    f"{path}: parts must be whole numbers from 0 up of shape {points.shape[:2]}, not {parts.dtype} {parts.shape}"
                )
            part.parts = [*(part.parts or ()), *parts.astype(np.int64)]
    for part in found.roles.values():
        if part.parts is not None and len(part.parts) != len(part.clouds):
            raise DataError(
                f"some files of {listed([str(p) for paths in files.values() for p in paths], 2)} have parts, some have none"
            )
        if found.classes is None:
            check_classes(part.labels, listed([path.name for paths in files.values() for path in paths], 2))
    return found


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return {key: content[key] for key in content.files}
        h5py: Any = require("h5py", "pt-pointcloud[h5]")
        with h5py.File(path, "r") as content:
            arrays = {key: value for key, value in content.items() if isinstance(value, h5py.Dataset)}
            large = next((key for key, value in arrays.items() if value.size * value.dtype.itemsize > LARGEST), None)
            if large is not None:
                raise DataError(f"{path}: array {large!r} is larger than {LARGEST / 1e9:.0f} GB; divide the file")
            return {
                key: value.asstr()[...].astype(str) if value.dtype.kind == "O" else value[...]
                for key, value in arrays.items()
            }
    except (ValueError, OSError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from None


def _pick(
    arrays: Mapping[str, NDArray[Any]], usual: tuple[str, ...], given: str | None, flag: str, path: Path
) -> NDArray[Any] | None:
    if given is not None:
        if given not in arrays:
            raise DataError(
                f"{path} has no array {given!r}{nearest(given, arrays)}; it has {listed(sorted(arrays))} ({flag})"
            )
        return arrays[given]
    return next((arrays[name] for name in usual if name in arrays), None)


def _names(array: NDArray[Any] | None) -> list[str] | None:
    return (
        None if array is None else [v.decode() if isinstance(v, bytes) else str(v) for v in array.reshape(-1).tolist()]
    )


def _label(value: Any, classes: list[str] | None, where: str) -> str:
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        return named(value, where)
    if isinstance(value, float) and not value.is_integer():
        raise DataError(f"{where}: label {value} is no class")
    number = int(value)
    if classes is None:
        if number < 0:
            raise DataError(f"{where}: label {number} is outside the classes; labels start at 0")
        return str(number)
    if not 0 <= number < len(classes):
        raise DataError(
            f"{where}: label {number} is outside 0..{len(classes) - 1}, the {len(classes)} classes it names"
        )
    return classes[number]
