"""How audio data are read; imports nothing heavy, as the command line's help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

Stereo = Literal["error", "mean", "left", "right"]
"""What to do with several channels."""


@dataclass(frozen=True)
class DataOptions:
    """How audio data are read."""

    tasks: tuple[str, ...] = ("tagging",)
    """Records to make from labelled clips, of: tagging, captioning, question, localisation, retrieval, few_shot, reasoning."""
    ways: Annotated[int, Ge(2)] = 5
    """Classes of a few-shot episode."""
    episode_shots: Annotated[int, Ge(1)] = 1
    """Clips per class in a few-shot episode."""
    stereo: Stereo = "error"
    """What to do with several channels: refuse, average, or take one."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training clips that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many records of every part (the first ones of a seeded shuffle)."""
    recompute: bool = False
    """Checkpoint every block of the language model while training: less memory, one more forward pass."""
