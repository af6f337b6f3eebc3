"""`builtin:sounds`: clips of generated events."""

from __future__ import annotations

from functools import cache

import numpy as np
from pt_core.data import stable_seed

from pt_audio.data import synth
from pt_audio.data.clips import Clips
from pt_audio.data.sound import from_array

COUNTS = {"train": 240, "val": 32, "test": 60}
"""Clips per part of builtin:sounds."""


@cache
def generated(count: int, role: str) -> Clips:
    """Generated clips of 4 to 9.5 s; every second one holds a single event. Kept, as they take a while."""
    sources, events = [], []
    for number in range(count):
        rng = np.random.default_rng(stable_seed("sounds", role, number) % 2**32)
        length = float(rng.uniform(4, 9.5))
        alone = [synth.LABELS[number // 2 % len(synth.LABELS)]]
        clip = synth.random_clip(rng, length) if number % 2 else synth.clip(rng, length, alone)
        sources.append(from_array(clip.wave, synth.RATE, f"{role}-{number:04d}"))
        events.append(clip.events)
    return sources, events, True
