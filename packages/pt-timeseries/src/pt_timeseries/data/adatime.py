"""AdaTime's files: train_<id>.pt and test_<id>.pt with `samples` and `labels`, one pair per domain. Loaded without unpickling code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError

from pt_timeseries.data.cells import class_texts
from pt_timeseries.data.domains import Domain, Domains, collect, sort_names
from pt_timeseries.data.gaps import Floats, stacked
from pt_timeseries.options import DataOptions


def read_adatime(folder: Path, options: DataOptions) -> Domains:
    """Read all domains of a folder. `samples` are tensors or NumPy arrays (window, channel, step); with `--channels N`, arrays whose second
    axis is not N and whose third is are transposed (AdaTime does that without asking, which is ambiguous where both are N).

    Raises:
        DataError: a file that holds more than plain tensors and arrays, or lacks an entry.
    """
    blocks: dict[str, list[tuple[Any, list[str], str]]] = {}
    notes: list[str] = []
    for part in ("train", "test"):
        for file in sorted(folder.glob(f"{part}_*.pt")):
            values, labels = _load(file, options.channels, notes)
            blocks.setdefault(file.stem.removeprefix(f"{part}_"), []).append((values, labels, part))
    items = [
        Domain(
            name,
            _joined([values for values, _, _ in blocks[name]], name, folder),
            [label for _, labels, _ in blocks[name] for label in labels],
            None,
            [part for values, _, part in blocks[name] for _ in range(len(values))],
        )
        for name in sort_names(set(blocks))
    ]
    return collect(items, str(folder), notes=notes, options=options)


def _joined(blocks: list[Any], name: str, folder: Path) -> Floats:
    if len({block.shape[1] for block in blocks}) > 1:
        found = " and ".join(str(block.shape[1]) for block in blocks)
        raise DataError(
            f"domain {name!r} of {folder} has {found} channels in its files; say which axis they are with --channels"
        )
    return stacked([window for block in blocks for window in block])


def _arrays() -> list[Any]:
    """What a pickled NumPy array is made of, and nothing else; NumPy 1 wrote another name of the same function."""
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = [type(np.dtype(letter)) for letter in "?bBhHiIlLqQefdU"]
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in (_reconstruct, scalar)]
    return [np.ndarray, np.dtype, _reconstruct, scalar, *old, *dict.fromkeys(kinds)]


def _load(file: Path, channels: int | None, notes: list[str]) -> tuple[Any, list[str]]:
    try:
        with torch.serialization.safe_globals(_arrays()):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(
            f"{file} holds more than tensors and is not loaded; save it again with torch.save of tensors or NumPy arrays of numbers"
        ) from None
    except Exception as error:  # of a damaged file, torch and NumPy raise many kinds
        raise DataError(f"{file} cannot be read ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(content, dict) or not {"samples", "labels"} <= set(content):
        raise DataError(f"{file} needs the entries 'samples' and 'labels'")
    values, labels = (_array(content[key], key, file) for key in ("samples", "labels"))
    if values.dtype.kind not in "fiu":
        raise DataError(f"{file}: samples are {values.dtype}, not numbers")
    if values.ndim == 2:
        values = values[:, None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if values.ndim != 3 or labels.ndim != 1 or len(labels) != len(values):
        raise DataError(f"{file}: samples {values.shape} and labels {labels.shape} do not fit")
    if channels is not None and values.shape[1] != channels and values.shape[2] == channels:
        values = values.transpose(0, 2, 1)
        notes.append(f"{file.name} is transposed to (window, {channels} channels, step)")
    names = class_texts(labels.tolist(), "the label", lambda row: f"{file}, window {row}")
    return values.astype(np.float32), names


def _array(value: Any, key: str, file: Path) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    try:
        return np.asarray(value)
    except ValueError:
        raise DataError(f"{file}: {key!r} is a list of entries of different size; equal ones are needed") from None
