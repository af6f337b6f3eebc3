"""Readers of labelled images: folders, tables, split files, npz arrays, hub data sets and the built-in digits.

Each gives the parts as they lie there, with labels as text; `pt_vision.data.load` checks the images and makes datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pt_core.errors import UserError

from pt_vision.data.names import ARRAYS, BUILTIN_IMAGES, SPLITS, problem
from pt_vision.data.parts import Found
from pt_vision.data.readers.arrays import read_npz
from pt_vision.data.readers.builtin import read_digits
from pt_vision.data.readers.folder import read_folder
from pt_vision.data.readers.hub import read_hub
from pt_vision.data.readers.listed_splits import read_listed_splits
from pt_vision.data.readers.table import read_table
from pt_vision.options import DataOptions


def read(spec: str, options: DataOptions, wanted: Sequence[str]) -> Found:
    """Read what `spec` names; `wanted` are the columns that are needed besides image, label and split.

    Raises:
        UserError: the path does not exist, is of no known kind, or the hub cannot be reached.
        DataError: a column or array is missing or has unusable values.
    """
    wrong = problem(spec, BUILTIN_IMAGES)
    if wrong is not None:
        raise UserError(wrong)
    if spec.startswith("builtin:"):
        return read_digits(wanted)
    if spec.startswith("hub:"):
        return read_hub(spec.removeprefix("hub:"), options, wanted)
    path = Path(spec)
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return read_hub(path, options, wanted)
        return read_folder(path, wanted)
    if path.suffix.lower() == ARRAYS:
        return read_npz(path, wanted)
    if path.suffix.lower() == SPLITS:
        return read_listed_splits(path, wanted)
    return read_table(path, options, wanted)
