"""AdaTime's files: train_<id>.pt and test_<id>.pt with `samples` and `labels`, one pair per domain. Loaded without unpickling code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError

from pt_timeseries.data.domains import Domain, Domains, collect, sort_names
from pt_timeseries.options import DataOptions


def read_adatime(folder: Path, options: DataOptions) -> Domains:
    """Read all domains of a folder. `samples` are (window, channel, step); with `--channels N`, arrays whose second axis is not N and
    whose third is are transposed (AdaTime does that without asking, which is ambiguous where both are N).

    Raises:
        DataError: a file that holds more than plain tensors, or lacks an entry.
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
            np.concatenate([values for values, _, _ in blocks[name]]),
            [label for _, labels, _ in blocks[name] for label in labels],
            None,
            [part for values, _, part in blocks[name] for _ in range(len(values))],
        )
        for name in sort_names(set(blocks))
    ]
    return collect(items, str(folder), notes=notes)


def _load(file: Path, channels: int | None, notes: list[str]) -> tuple[Any, list[str]]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(
            f"{file} holds more than tensors and is not loaded; save it again with torch.save of tensors (not NumPy arrays)"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(content, dict) or not {"samples", "labels"} <= set(content):
        raise DataError(f"{file} needs the entries 'samples' and 'labels'")
    values, labels = (torch.as_tensor(content[key]) for key in ("samples", "labels"))
    if values.ndim == 2:
        values = values[:, None]
    if values.ndim != 3 or labels.ndim != 1 or len(labels) != len(values):
        raise DataError(f"{file}: samples {tuple(values.shape)} and labels {tuple(labels.shape)} do not fit")
    if channels is not None and values.shape[1] != channels and values.shape[2] == channels:
        values = values.transpose(1, 2)
        notes.append(f"{file.name} is transposed to (window, {channels} channels, step)")
    return values.float().numpy(), [str(int(label)) for label in labels]
