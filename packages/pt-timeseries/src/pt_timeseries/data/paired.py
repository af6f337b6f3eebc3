"""Files of one data set each, which archives divide in two: NAME_TRAIN and NAME_TEST become the parts of the domain NAME."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pt_timeseries.data.domains import Domain, Domains, collect
from pt_timeseries.data.gaps import Floats, stacked
from pt_timeseries.options import DataOptions

Loaded = tuple[Floats, list[str] | None]
"""(window, channel, step), NaN behind the ends of short series, and a class per window."""


def read_pairs(files: Sequence[Path], load: Callable[[Path], Loaded], options: DataOptions) -> Domains:
    """A domain per file or pair of files."""
    found: dict[str, list[tuple[Floats, list[str] | None, str | None]]] = {}
    for file in files:
        name, part = file.stem, None
        for ending in ("train", "test"):
            if name.lower().endswith(f"_{ending}"):
                name, part = name[: -len(ending) - 1], ending
        values, labels = load(file)
        found.setdefault(name, []).append((values, labels, part))
    items = []
    for name, blocks in found.items():
        values = stacked([window for block, _, _ in blocks for window in block])
        labelled = all(labels is not None for _, labels, _ in blocks)
        joined = [label for _, labels, _ in blocks for label in labels or ()] if labelled else None
        divided = all(part is not None for _, _, part in blocks) and len(blocks) > 1
        parts = [str(part) for block, _, part in blocks for _ in range(len(block))] if divided else None
        items.append(Domain(name, values, joined, None, parts))
    return collect(items, ", ".join(str(file) for file in files[:3]), options=options)
