"""Parts of audio files, from `start` to `end` in seconds, as clips of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pt_core.errors import DataError

from pt_audio.data.sound import Source, open_file
from pt_audio.options import Stereo

SLACK = 0.5
"""Seconds by which an end may lie behind the file's: tables round."""
Times = tuple[float | None, float | None]
"""(start, end) in seconds; None for the file's own."""
Reader = Callable[[Path, Times, str], Source]


def reader(stereo: Stereo) -> Reader:
    """Opens stretches; a file is looked at once, however many of its stretches are asked for."""
    known: dict[Path, Source] = {}

    def opened(path: Path, times: Times, where: str) -> Source:
        if path not in known:
            known[path] = open_file(path, stereo)
        return stretch(known[path], times, where)

    return opened


def stretch(source: Source, times: Times, where: str) -> Source:
    """A part of a file; all of it without times.

    Raises:
        DataError: the times lie outside the file, or hold no sample.
    """
    if times == (None, None):
        return source
    start = 0.0 if times[0] is None else times[0]
    end = source.seconds if times[1] is None else times[1]
    first, last = round(start * source.rate), min(round(end * source.rate), source.samples)
    if end > source.seconds + SLACK or first >= last:
        raise DataError(f"{where}: {start:g} to {end:g} is no stretch of {source.name} ({source.seconds:.2f} s)")
    name = f"{source.name}[{start:g}-{end:g}s]"
    return replace(source, name=name, start=source.start + first, samples=last - first)


def seconds(value: Any, what: str, where: str) -> float | None:
    """A time as a number of seconds, or as its text; None for an empty one.

    Raises:
        DataError: it is no time.
    """
    if value is None or value == "":
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise DataError(f"{where}: {what!r} must be a number of seconds, it is {str(value)[:60]!r}")
    return found
