"""Random numbers that depend on keys only, never on what ran before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pt_core.data import stable_seed


@contextmanager
def keep_rng() -> Iterator[None]:
    """Leave the caller's random number generators (python, numpy, torch) as they were."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Run the body with all generators seeded by `key`, then put the caller's back: building a method draws its initial values here."""
    with keep_rng():
        seed = stable_seed(*key)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield
