"""Sums over the samples of an evaluation, exact over any number of processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Sums(dict[str, Tensor]):
    """Named tensors on the CPU that an evaluator adds to: counts, and float64 where values are no counts.

    A process without samples takes part with the zeros it began with, or with no entry of a name it never met.
    """

    def over_processes(self) -> dict[str, Tensor]:
        """The sums of all processes; one's own stay as they are, so that more samples may follow."""
        parts = gathered(dict(self))
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: torch.stack([part[name] for part in parts if name in part]).sum(0) for name in names}


def gathered(value: Any) -> list[Any]:
    """One value per process, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts
