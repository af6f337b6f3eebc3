"""NumPy archives: ready windows, or long recordings that are cut into windows here."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pt_core.errors import DataError, nearest

from pt_timeseries.data.domains import Domain, Domains, collect, sort_names
from pt_timeseries.data.windows import cut_windows
from pt_timeseries.options import DataOptions

DOMAIN_KEYS = ("domain", "subject", "user", "load", "load_hp", "device", "seq_domain", "seq_subject", "seq_user")
GROUP_KEYS = ("group", "recording", "execution", "seq_group", "seq_recording", "seq_execution")


def read_npz(path: Path, options: DataOptions, prefix: str = "") -> Domains:
    """Read an archive (never unpickling).

    Ready windows: `x` (window, channel, step) or (window, step), `y` (window,), a domain per window, optional `group`, `split`, `scale`.
    Long recordings: `x` (step, channel), `y` (step,), `seq_ptr` offsets of the recordings, and a domain per recording (`seq_...`).
    `classes` names the labels where `y` holds their numbers.

    Raises:
        DataError: not such an archive; says what is missing.
    """
    arrays = _load(path)
    if "x" not in arrays:
        raise DataError(f"{path} has no array 'x'; it has: {', '.join(arrays)}")
    values = np.asarray(arrays["x"])
    if values.dtype.kind not in "fiu":
        raise DataError(f"array 'x' of {path} holds {values.dtype}, not numbers")
    scale = float(arrays["scale"]) if "scale" in arrays and np.ndim(arrays["scale"]) == 0 else 1.0
    labels = _labels(arrays, path)
    if labels is not None and len(labels) != len(values):
        raise DataError(f"{path}: array 'x' has {len(values)} entries and the labels {len(labels)}")
    if "seq_ptr" in arrays:
        return _recordings(path, arrays, values, labels, scale, options, prefix)
    if values.ndim == 2:
        values = values[:, None]
    key = _key(arrays, options.domain_column, DOMAIN_KEYS, len(values), path, "domain")
    owner = [f"{prefix}{name}" for name in (arrays[key].tolist() if key else ["all"] * len(values))]
    group_key = _key(arrays, options.group_column, GROUP_KEYS, len(values), path, "group", optional=True)
    groups = [str(name) for name in arrays[group_key].tolist()] if group_key else None
    key = _key(arrays, None, ("split",), len(values), path, "split", optional=True)
    parts = [str(name) for name in arrays[key].tolist()] if key else None
    items = []
    for name in sort_names(set(owner)):
        rows = [row for row, found in enumerate(owner) if found == name]
        items.append(
            Domain(
                name,
                (values[rows] * np.float32(scale)).astype(np.float32),
                None if labels is None else [labels[row] for row in rows],
                None if groups is None else [groups[row] for row in rows],
                None if parts is None else [parts[row] for row in rows],
            )
        )
    return collect(items, str(path), _class_order(arrays))


def _load(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read as a NumPy archive ({reason})") from None


def _labels(arrays: Mapping[str, Any], path: Path) -> list[str] | None:
    key = next((name for name in ("y", "label", "labels") if name in arrays), None)
    if key is None:
        return None
    found = arrays[key]
    if "classes" not in arrays or found.dtype.kind not in "iu":
        return [str(label) for label in found.tolist()]
    classes = [str(name) for name in arrays["classes"].tolist()]
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < len(classes):
        raise DataError(f"{path}: labels run from {found.min()} to {found.max()}, but there are {len(classes)} classes")
    return [classes[int(label)] for label in found]


def _class_order(arrays: Mapping[str, Any]) -> list[str] | None:
    return [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else None


def _key(
    arrays: Mapping[str, Any],
    asked: str | None,
    usual: tuple[str, ...],
    size: int,
    path: Path,
    what: str,
    optional: bool = False,
) -> str | None:
    """The array with one entry per window (or recording) that names its domain or group."""
    if asked is not None and asked not in arrays:
        raise DataError(f"{path} has no array {asked!r}{nearest(asked, arrays)}; it has: {', '.join(arrays)}")
    key = asked or next((name for name in usual if name in arrays), None)
    if key is None or (optional and len(arrays[key]) != size):
        return None
    if np.ndim(arrays[key]) != 1 or len(arrays[key]) != size:
        raise DataError(
            f"{path}: array {key!r} has shape {np.shape(arrays[key])}; a {what} needs one entry for each of {size}"
        )
    return key


def _recordings(
    path: Path,
    arrays: Mapping[str, Any],
    values: Any,
    labels: list[str] | None,
    scale: float,
    options: DataOptions,
    prefix: str,
) -> Domains:
    borders = arrays["seq_ptr"].tolist()
    count = len(borders) - 1
    if values.ndim != 2 or count < 1 or sorted(borders) != borders or borders[0] < 0 or borders[-1] > len(values):
        raise DataError(f"{path}: seq_ptr must rise from 0 to the {len(values)} steps of 'x' (step, channel)")
    key = _key(arrays, options.domain_column, DOMAIN_KEYS, count, path, "domain")
    owner = [f"{prefix}{name}" for name in (arrays[key].tolist() if key else ["all"] * count)]
    items = []
    short = 0
    for name in sort_names(set(owner)):
        blocks, classes, groups = [], [], []
        for number in (row for row, found in enumerate(owner) if found == name):
            begin, end = borders[number], borders[number + 1]
            own = None if labels is None else labels[begin:end]
            steps = (values[begin:end] * np.float32(scale)).astype(np.float32)
            block, found_labels = cut_windows(steps, own, options.window, options.stride, f"{path.name}[{number}]")
            short += not len(block)
            blocks.append(block)
            classes += found_labels or []
            groups += [f"{number}"] * len(block)
        items.append(Domain(name, np.concatenate(blocks), classes if labels is not None else None, groups))
    notes = [f"{short} recordings of {path.name} are shorter than a window of {options.window} steps"] if short else []
    notes.append(
        f"{path.name}: {count} recordings cut into windows of {options.window} steps, stride {options.stride}; "
        "a window has the label of most of its steps"
    )
    return collect(items, str(path), _class_order(arrays), notes)
