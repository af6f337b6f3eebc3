"""`.ts` files of the UCR/UEA archives, read by aeon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pt_core.errors import DataError, require

from pt_timeseries.data.cells import class_texts
from pt_timeseries.data.gaps import stacked
from pt_timeseries.data.paired import Loaded


def load_ts(file: Path) -> Loaded:
    """Series and classes of a file.

    Raises:
        MissingExtra: aeon is not installed.
        DataError: unreadable, or a file of regression targets.
    """
    loading = cast("Any", require("aeon.datasets", "pt-timeseries[ts]"))
    try:
        values, labels, meta = loading.load_from_ts_file(str(file), return_meta_data=True)
        series = stacked(list(values))
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except Exception as error:  # aeon raises many kinds
        raise DataError(f"{file} cannot be read as a .ts file ({' '.join(str(error).split())[:120]})") from None
    if len(series) == 0:
        raise DataError(f"{file} cannot be read as a .ts file (it holds no series)")
    if meta.get("targetlabel"):
        raise DataError(f"{file} has numbers to predict (@targetLabel); classes are predicted here")
    if len(labels) != len(series):
        return series, None
    return series, class_texts(
        ["" if label == "?" else label for label in labels], "the class", lambda row: f"{file}, series {row}"
    )
