"""Which process this is, before anything is started, and what it does while libraries and networks are loaded."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

COUNTS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What torchrun and the launchers of MPI set."""


def launched_rank() -> int:
    """Rank as `accelerate launch` and `torchrun` announce it, without starting anything; 0 for a plain process."""
    return int(os.environ.get("RANK", "0"))


def launched_processes() -> int:
    """Number of processes that a launcher announced; 1 for a plain process."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched() -> bool:
    """Whether a launcher started this process, or settings for one are in its environment."""
    return any(name in COUNTS or name.startswith("ACCELERATE_") for name in os.environ)


def loading() -> None:
    """Switch the garbage collector off while a command loads what it needs: that makes many objects and no garbage, and looking at them
    again and again takes an eighth of the time."""
    gc.disable()


def working() -> None:
    """Switch it on again behind `loading`. What is there by now is left alone: it stays."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def without_collector() -> Iterator[None]:
    """For a stretch that makes many small objects and drops them all."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
