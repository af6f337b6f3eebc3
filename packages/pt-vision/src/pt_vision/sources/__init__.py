"""Readers of labelled images: folders, tables, npz arrays, hub data sets and the built-in digits.

Each gives the parts as they lie there, with labels as text; `pt_vision.data` checks the images and makes datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pt_core.errors import UserError

from pt_vision.sources._common import Found, Part, Rows
from pt_vision.sources.arrays import read_npz
from pt_vision.sources.builtin import read_builtin
from pt_vision.sources.folder import read_folder
from pt_vision.sources.hub import read_hub
from pt_vision.sources.table import TABLES, read_table

if TYPE_CHECKING:
    from pt_vision.data import DataOptions

__all__ = ["Found", "Part", "Rows", "read"]


def read(spec: str, options: DataOptions, wanted: Sequence[str]) -> Found:
    """Read what `spec` names; `wanted` are the columns that are needed besides image, label and split.

    Raises:
        UserError: the path does not exist, is of no known kind, or the hub cannot be reached.
        DataError: a column or array is missing or has unusable values.
    """
    if spec.startswith("builtin:"):
        return read_builtin(spec.removeprefix("builtin:"), wanted)
    if spec.startswith("hub:"):
        return read_hub(spec.removeprefix("hub:"), options, wanted)
    path = Path(spec)
    if not path.exists():
        raise UserError(
            f"--data {spec!r} does not exist; give a folder, a table ({', '.join(TABLES)}), .npz or hub:NAME"
        )
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return read_hub(path, options, wanted)
        return read_folder(path, wanted)
    if path.suffix.lower() == ".npz":
        return read_npz(path, wanted)
    if path.suffix.lower() in TABLES:
        return read_table(path, options, wanted)
    raise UserError(f"--data {spec!r} is neither a folder nor a file of a known kind ({', '.join((*TABLES, '.npz'))})")
