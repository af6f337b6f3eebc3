"""Data sets of the `datasets` library: of the hub, or saved in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import DataError, require

from pt_language.data.places import ROLES

if TYPE_CHECKING:
    import pandas as pd


def hub(name: str) -> dict[str, pd.DataFrame]:
    """A data set of the hub: `OWNER/NAME`, with `:CONFIG` and `@REVISION` where asked for.

    Raises:
        DataError: it cannot be fetched.
        MissingExtra: the library is not installed.
    """
    datasets: Any = require("datasets", "pt-language[hub]")
    place, _, revision = name.partition("@")
    path, _, config = place.partition(":")
    try:
        found = datasets.load_dataset(path, config or None, revision=revision or None)
    except Exception as error:  # the hub's clients raise many kinds without a network or a data set
        raise DataError(
            f"hub data set {name!r} cannot be loaded ({_reason(error)}); check name and network, or give a file"
        ) from None
    return _parts(found, f"hub data set {name!r}")


def saved(folder: Path) -> dict[str, pd.DataFrame]:
    """What `save_to_disk` of the library wrote: one table, which is the training part, or one per split.

    Raises:
        DataError: it cannot be read.
        MissingExtra: the library is not installed.
    """
    datasets: Any = require("datasets", "pt-language[hub]")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged files raise what Arrow and JSON raise
        raise DataError(f"{folder} cannot be read as a saved data set ({_reason(error)})") from None
    return _parts(found if isinstance(found, Mapping) else {"train": found}, str(folder))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _parts(found: Mapping[str, Any], what: str) -> dict[str, pd.DataFrame]:
    frames = {ROLES[split]: _frame(part) for split, part in found.items() if split in ROLES}
    if "train" not in frames:
        raise DataError(f"{what} has no training part; it has: {', '.join(found)}")
    return {role: frame for role, frame in frames.items() if frame is not None}


def _frame(part: Any) -> pd.DataFrame | None:
    """A table with the names of its classes instead of their numbers; None for a part whose labels are held back (-1 in every row)."""
    frame: pd.DataFrame = part.to_pandas()
    for column, feature in part.features.items():
        names = getattr(feature, "names", None)
        if not isinstance(names, list):
            continue
        numbers = frame[column]
        if len(numbers) and (numbers == -1).all():
            return None
        frame[column] = [
            names[int(n)] if n == n and n is not None and 0 <= int(n) < len(names) else None for n in numbers
        ]
    return frame
