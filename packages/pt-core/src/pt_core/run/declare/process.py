"""Which process this is, before anything is started."""

from __future__ import annotations

import os


def launched_rank() -> int:
    """Rank as `accelerate launch` and `torchrun` announce it, without starting anything; 0 for a plain process."""
    return int(os.environ.get("RANK", "0"))


def launched_processes() -> int:
    """Number of processes that a launcher announced; 1 for a plain process."""
    return int(os.environ.get("WORLD_SIZE", "1"))
