"""`NAME_TRAIN.tsv` and `NAME_TEST.tsv` of the UCR archive: no header, the class first, then a value per step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pt_core.errors import DataError

from pt_timeseries.data.cells import class_texts
from pt_timeseries.data.paired import Loaded


def is_ucr(file: Path) -> bool:
    """Whether the first line of a .tsv is a series, not a header."""
    try:
        with file.open(encoding="utf-8") as lines:
            cells = lines.readline().split("\t")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a table ({error})") from None
    return len(cells) > 2 and all(_is_number(cell) for cell in cells)


def load_ucr(file: Path) -> Loaded:
    """Series and classes of a file; values that are missing at the end of a line end the series there, as the archive writes it.

    Raises:
        DataError: a cell that is no number.
    """
    import pandas as pd

    try:
        table = pd.read_csv(file, sep="\t", header=None).to_numpy(np.float64)
    except Exception as error:  # pandas raises many kinds
        raise DataError(
            f"{file} cannot be read as series of the UCR archive ({' '.join(str(error).split())[:120]})"
        ) from None
    labels = class_texts(table[:, 0].tolist(), "the class", lambda row: f"{file}, line {row + 1}")
    return table[:, None, 1:].astype(np.float32), labels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
