"""How text data are read; imports nothing heavy, as the command line's help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt


@dataclass(frozen=True)
class DataOptions:
    """How text data are read."""

    template: str | None = None
    """How a row becomes text; the last field is the answer (default: `input: {text} output: {label}` with the columns found)."""
    where: tuple[str, ...] = ()
    """Use only rows with COLUMN=VALUE or COLUMN!=VALUE; several values with |. All conditions must hold."""
    split_column: str | None = None
    """Column with train, val or test (default: split, where there is one)."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training part that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many rows of every part (the first ones of a seeded shuffle)."""
    recompute: bool = False
    """Checkpoint every block of the model while training: less memory, one more forward pass."""
    max_text_tokens: Annotated[int, Ge(1)] | None = None
    """Cut every input text to this many tokens (default: a text that does not fit is an error, nothing is cut)."""
