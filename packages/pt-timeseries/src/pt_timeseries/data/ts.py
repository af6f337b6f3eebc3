"""`.ts` files of the UCR/UEA archives, read by aeon: a domain per file, or per pair NAME_TRAIN.ts and NAME_TEST.ts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from pt_core.errors import DataError, require

from pt_timeseries.data.domains import Domain, Domains, collect


def read_ts(files: Sequence[Path]) -> Domains:
    """Read files of series of equal length.

    Raises:
        MissingExtra: aeon is not installed.
        DataError: unreadable, or series of unequal length.
    """
    loading = cast("Any", require("aeon.datasets", "pt-timeseries[ts]"))
    found: dict[str, list[tuple[Any, list[str] | None, str | None]]] = {}
    for file in files:
        name, part = file.stem, None
        for ending in ("train", "test"):
            if name.lower().endswith(f"_{ending}"):
                name, part = name[: -len(ending) - 1], ending
        try:
            values, labels = loading.load_from_ts_file(str(file), return_meta_data=False)
        except Exception as error:  # aeon raises many kinds
            raise DataError(f"{file} cannot be read as a .ts file ({' '.join(str(error).split())[:120]})") from None
        if len(values) == 0:
            raise DataError(f"{file} cannot be read as a .ts file (it holds no series)")
        if isinstance(values, list):
            raise DataError(f"{file} has series of unequal length; cut or pad them first")
        names = [str(label) for label in labels] if len(labels) == len(values) else None
        found.setdefault(name, []).append((np.asarray(values, np.float32), names, part))
    items = []
    for name, blocks in found.items():
        values = np.concatenate([block for block, _, _ in blocks])
        labelled = all(labels is not None for _, labels, _ in blocks)
        joined = [label for _, labels, _ in blocks for label in labels or ()] if labelled else None
        divided = all(part is not None for _, _, part in blocks) and len(blocks) > 1
        parts = [str(part) for block, _, part in blocks for _ in range(len(block))] if divided else None
        items.append(Domain(name, values, joined, None, parts))
    return collect(items, ", ".join(str(file) for file in files[:3]))
