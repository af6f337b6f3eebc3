"""A fixed input, and what is looked at of its features, by which networks of equal weights are told apart.

Values are small on purpose: where embedded patches hardly differ from their bias and position, variances are small, and a norm's epsilon
shows. Built from constants and counters, so that every machine and version builds the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pt_core.fingerprint import SAMPLES
from torch import Tensor

LEVEL, SPREAD = 0.02, 0.1


def pictures(channels: int, rows: int, columns: int) -> Tensor:
    """(2, channels, rows, columns): one of a single value, and one of scattered values in -SPREAD / 2 .. SPREAD / 2."""
    count = torch.arange(channels * rows * columns).view(channels, rows, columns)
    scattered = (count * 7919 % 1009).float() / 1009 - 0.5
    return torch.stack([torch.full_like(scattered, LEVEL), SPREAD * scattered])


def shares(parts: Sequence[Tensor]) -> Tensor:
    """SAMPLES values in all, as many of each part, spread over it: a pooled vector counts as much as a long sequence."""
    per = SAMPLES // len(parts)
    chosen = []
    for part in parts:
        flat = part.reshape(-1)
        chosen.append(flat[torch.arange(per, device=flat.device) * (len(flat) - 1) // (per - 1)])
    return torch.cat(chosen)
