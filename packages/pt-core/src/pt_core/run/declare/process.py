"""Which process this is, before anything is started."""

from __future__ import annotations

import os

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
