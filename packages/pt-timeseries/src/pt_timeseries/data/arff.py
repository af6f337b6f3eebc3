"""`.arff` files of the UCR/UEA archives: an attribute per step and the class last, or a relational attribute with a line per channel."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pt_core.errors import DataError

from pt_timeseries.data.cells import class_texts
from pt_timeseries.data.gaps import Floats, stacked
from pt_timeseries.data.paired import Loaded


def load_arff(file: Path) -> Loaded:
    """Series and classes of a file; `?` is a missing value.

    Raises:
        DataError: unreadable, or another kind of ARFF; names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as an .arff file ({error})") from None
    heads = [line.strip() for line in lines if line.strip()[:1] == "@"]
    relational = any(head.lower().split()[-1:] == ["relational"] for head in heads)
    last = [head for head in heads if head.lower().startswith("@attribute")][-1:]
    if not last or not any(head.lower().startswith("@data") for head in heads):
        raise DataError(f"{file} cannot be read as an .arff file (it has no @attribute or no @data)")
    labelled = last[0].endswith("}")
    if not labelled and (relational or not last[0].lower().endswith(("numeric", "real", "integer"))):
        raise DataError(f"{file}: the last attribute names no classes ({last[0][:60]})")
    series: list[Floats] = []
    labels: list[str] = []
    places: list[str] = []
    for where, fields in _rows(file, lines):
        if labelled:
            *fields, label = fields
            labels.append("" if label == "?" else label)
            places.append(where)
        channels = (
            fields[0].replace("\\n", "\n").splitlines() if relational and len(fields) == 1 else [",".join(fields)]
        )
        try:
            numbers = [[np.nan if x.strip() == "?" else float(x) for x in channel.split(",")] for channel in channels]
            series.append(stacked([stacked([[row] for row in numbers])[:, 0]])[0])
        except (ValueError, IndexError, DataError):
            raise DataError(f"{where} is no series of numbers") from None
    if not series:
        raise DataError(f"{file} holds no series")
    names = class_texts(labels, "the class", places.__getitem__) if labelled else None
    try:
        return stacked(series), names
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _rows(file: Path, lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of every line of data; texts in single or double quotes are one field."""
    inside = False
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if inside and text and text[0] != "%":
            quote = '"' if text[0] == '"' else "'"
            yield f"{file}, line {number}", next(csv.reader([text], quotechar=quote, skipinitialspace=True))
        inside = inside or text.lower().startswith("@data")
