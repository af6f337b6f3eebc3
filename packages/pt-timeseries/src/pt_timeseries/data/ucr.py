"""`NAME_TRAIN` and `NAME_TEST` of the UCR archive, as .tsv or .txt: no header, the class first, then a value per step. Columns are
separated by tabs, in .txt by white space or commas, as its editions have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pt_core.errors import DataError

from pt_timeseries.data.cells import class_texts
from pt_timeseries.data.paired import Loaded

WHITE = r"\s+"


def is_ucr(file: Path) -> bool:
    """Whether the first line is a series, not a header."""
    line = _first_line(file)
    separator = _separator(file, line)
    cells = line.split() if separator == WHITE else line.strip("\r\n").split(separator)
    return len(cells) > 2 and all(_is_number(cell) for cell in cells)


def check_text(file: Path) -> None:
    """Raises:
    DataError: a .txt of another kind.
    """
    if not is_ucr(file):
        raise DataError(
            f"{file} is no text of the UCR archive: a line has a class, then the numbers of a series, with white space or commas between"
        )


def _first_line(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as lines:
            return lines.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a table ({error})") from None


def _separator(file: Path, line: str) -> str:
    if file.suffix == ".tsv":
        return "\t"
    return "," if "," in line else WHITE


def load_ucr(file: Path) -> Loaded:
    """Series and classes of a file; values that are missing at the end of a line end the series there, as the archive writes it.

    Raises:
        DataError: a cell that is no number.
    """
    import pandas as pd

    try:
        separator = _separator(file, _first_line(file))
        table = pd.read_csv(file, sep=separator, header=None).to_numpy(np.float64)
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
