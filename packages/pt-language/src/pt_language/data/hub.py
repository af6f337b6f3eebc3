"""Data sets of the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pt_core.errors import DataError, require

from pt_language.data.places import ROLES

if TYPE_CHECKING:
    import pandas as pd


def hub(name: str) -> dict[str, pd.DataFrame]:
    """A data set of the hub, `NAME` or `NAME/CONFIG@REVISION`.

    Raises:
        DataError: it cannot be fetched.
        MissingExtra: the library is not installed.
    """
    datasets = require("datasets", "pt-language[hub]")
    path, _, revision = name.partition("@")
    try:
        found = datasets.load_dataset(path, revision=revision or None)  # type: ignore[attr-defined]
    except Exception as error:  # the hub's clients raise many kinds without a network or a data set
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise DataError(
            f"hub data set {name!r} cannot be loaded ({reason}); check name and network, or give a file"
        ) from None
    parts = {ROLES[split]: part.to_pandas() for split, part in found.items() if split in ROLES}
    if "train" not in parts:
        raise DataError(f"hub data set {name!r} has no training part; it has: {', '.join(found)}")
    return parts
