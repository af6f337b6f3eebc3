"""NumPy archives: ready windows, or long recordings that are cut into windows here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pt_core.errors import DataError

from pt_timeseries.data.archives import class_order, key_of, labels_of, load_arrays, names_of, numbers, parts_of
from pt_timeseries.data.domains import Domain, Domains, collect, sort_names
from pt_timeseries.data.windows import Cutter
from pt_timeseries.options import DataOptions

DOMAIN_KEYS = ("domain", "subject", "user", "load", "load_hp", "device", "seq_domain", "seq_subject", "seq_user")
GROUP_KEYS = ("group", "recording", "execution", "seq_group", "seq_recording", "seq_execution")


def read_npz(path: Path, options: DataOptions, prefix: str = "") -> Domains:
    """Read an archive (never unpickling).

    Ready windows: `x` (window, channel, step) or (window, step), `y` (window,), a domain per window, optional `group`, `split`, `scale`;
    or `x_train`, `y_train`, `x_test`, `y_test` as archives divide one data set, which is a domain with the file's name where no array
    names others.
    Long recordings: `x` (step, channel), `y` (step,), `seq_ptr` offsets of the recordings, and a domain per recording (`seq_...`).
    `classes` names the labels where `y` holds their numbers.

    Raises:
        DataError: not such an archive; says what is missing.
    """
    arrays, divided = load_arrays(path)
    if "x" not in arrays:
        raise DataError(f"{path} has no array 'x'; it has: {', '.join(arrays)}")
    values = numbers(arrays["x"], "x", path)
    scale = _scale(arrays, path)
    labels = labels_of(arrays, path)
    if labels is not None and len(labels) != len(values):
        raise DataError(f"{path}: array 'x' has {len(values)} entries and the labels {len(labels)}")
    if "seq_ptr" in arrays:
        return _recordings(path, arrays, values, labels, scale, options, prefix)
    if values.ndim == 2:
        values = values[:, None]
    notes: list[str] = []
    if values.ndim == 3 and options.channels not in (None, values.shape[1]) and values.shape[2] == options.channels:
        values = values.transpose(0, 2, 1)
        notes.append(f"{path.name} is transposed to (window, {options.channels} channels, step)")
    key = key_of(arrays, options.domain_column, DOMAIN_KEYS, len(values), path, "domain")
    alone = path.stem if divided else f"{prefix}all"
    owner = [f"{prefix}{name}" for name in names_of(arrays, key, path)] if key else [alone] * len(values)
    group_key = key_of(arrays, options.group_column, GROUP_KEYS, len(values), path, "group", optional=True)
    groups = names_of(arrays, group_key, path) if group_key else None
    key = key_of(arrays, None, ("split",), len(values), path, "split", optional=True)
    parts = parts_of(arrays, key, path) if key else None
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(owner):
        rows_of.setdefault(name, []).append(row)
    items = []
    for name in sort_names(set(owner)):
        rows = rows_of[name]
        items.append(
            Domain(
                name,
                (values[rows] * np.float32(scale)).astype(np.float32),
                None if labels is None else [labels[row] for row in rows],
                None if groups is None else [groups[row] for row in rows],
                None if parts is None else [parts[row] for row in rows],
            )
        )
    return collect(items, str(path), class_order(arrays, path), notes, options)


def _scale(arrays: Mapping[str, Any], path: Path) -> float:
    """The factor in `scale`; an array of another meaning has the name by chance."""
    found = np.asarray(arrays.get("scale", 1.0))
    if found.ndim:
        return 1.0
    if found.dtype.kind not in "fiu" or not np.isfinite(found):
        raise DataError(f"{path}: 'scale' is {str(found)[:40]!r}, not a number")
    return float(found)


def _recordings(
    path: Path,
    arrays: Mapping[str, Any],
    values: Any,
    labels: list[str] | None,
    scale: float,
    options: DataOptions,
    prefix: str,
) -> Domains:
    borders = np.asarray(arrays["seq_ptr"])
    count = len(borders) - 1 if borders.ndim == 1 and borders.dtype.kind in "iu" else 0
    if (
        values.ndim != 2
        or count < 1
        or (np.diff(borders.astype(np.int64)) < 0).any()
        or borders[0] < 0
        or borders[-1] > len(values)
    ):
        raise DataError(f"{path}: seq_ptr must rise from 0 to the {len(values)} steps of 'x' (step, channel)")
    key = key_of(arrays, options.domain_column, DOMAIN_KEYS, count, path, "domain")
    owner = [f"{prefix}{name}" for name in names_of(arrays, key, path)] if key else [f"{prefix}all"] * count
    cutter = Cutter(options, path.name, "recordings")
    for number, name in enumerate(owner):
        begin, end = int(borders[number]), int(borders[number + 1])
        own = None if labels is None else labels[begin:end]
        steps = (values[begin:end] * np.float32(scale)).astype(np.float32)
        cutter.add(name, f"{path.name}[{number}]", steps, own, f"{number}")
    notes = [
        *cutter.notes(),
        f"{path.name}: {count} recordings cut into windows of {options.window} steps, stride {options.stride}; "
        "a window has the label of most of its steps",
    ]
    return collect(cutter.domains(sort_names), str(path), class_order(arrays, path), notes, options)
