"""NumPy archives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pt_core.errors import DataError, nearest

from pt_vision.data.parts import ROLES, Found, Part, listed, short, texts


def read_npz(path: Path, wanted: Sequence[str]) -> Found:
    """Arrays x_ROLE (image, row, column[, channel]) and y_ROLE (image,), or MedMNIST's ROLE_images and ROLE_labels.

    `classes` holds names for integer labels; further columns are arrays COLUMN_ROLE. Pickled arrays are refused.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise DataError(f"{path} cannot be read as .npz arrays: {short(error)}") from None
    names = next((arrays[name] for name in ("classes", "class_names") if name in arrays), None)
    classes = None if names is None else [str(name) for name in names.reshape(-1)]
    found = Found({}, classes)
    for role, aliases in ROLES.items():
        for alias in aliases:
            for image_key, label_key in ((f"x_{alias}", f"y_{alias}"), (f"{alias}_images", f"{alias}_labels")):
                if image_key in arrays:
                    found.parts[role] = _npz_part(
                        path, arrays, image_key, label_key, classes, f"_{alias}", role, wanted
                    )
    if not found.parts and "x" in arrays:
        found.parts["train"] = _npz_part(path, arrays, "x", "y", classes, "", "image", wanted)
    if not found.parts:
        raise DataError(f"{path} has no arrays x_train and y_train; it has {listed(list(arrays))}")
    return found


def _npz_part(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    image_key: str,
    label_key: str,
    classes: list[str] | None,
    suffix: str,
    stem: str,
    wanted: Sequence[str],
) -> Part:
    images = arrays[image_key]
    if images.ndim not in (3, 4):
        raise DataError(f"{path}: {image_key} has shape {images.shape}; expected (image, row, column[, channel])")
    if label_key not in arrays:
        raise DataError(f"{path} has {image_key} but no {label_key}; it has {listed(list(arrays))}")
    labels = arrays[label_key]
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1]:
        raise DataError(f"{path}: {label_key} has shape {labels.shape} for the {len(images)} images of {image_key}")
    names = texts(labels.tolist())
    if classes is not None and labels.dtype.kind in "iu":
        outside = sorted({int(label) for label in labels if not 0 <= label < len(classes)})
        if outside:
            raise DataError(
                f"{path}: {label_key} holds {listed(list(map(str, outside)))}, outside the {len(classes)} classes"
            )
        names = [classes[int(label)] for label in labels]
    columns = {}
    for name in wanted:
        key = f"{name}{suffix}"
        if key not in arrays or arrays[key].shape != images.shape[:1]:
            others = [k.removesuffix(suffix) for k in arrays if k.endswith(suffix) and k not in (image_key, label_key)]
            hint = f"{nearest(name, others)}; columns: {listed(others) or 'none'}"
            raise DataError(f"{path} has no array {key!r} with one entry per image{hint}")
        columns[name] = texts(arrays[key].tolist())
    return Part(list(images), [f"{stem}/{row}" for row in range(len(images))], names, columns)
