"""Labelled clips, as the readers give them."""

from __future__ import annotations

from collections import Counter

from pt_core.run.data.sampling import stratified_split

from pt_audio.data.sound import Source
from pt_audio.data.synth import Event

Clips = tuple[list[Source], list[tuple[Event, ...]], bool]
"""Sources, their events, and whether the events have times."""


def hold_out_clips(clips: Clips, fraction: float, seed: int) -> tuple[Clips, Clips]:
    """(kept, held out) clips, stratified by their first label where every class is large enough, else at random; parts of one file stay on
    one side."""
    sources, events, timed = clips
    names = sorted({found[0].label for found in events})
    labels = [names.index(found[0].label) for found in events]
    if min(Counter(labels).values()) < 2:
        labels, names = [0] * len(labels), ["clip"]
    files = [str(source.path or number) for number, source in enumerate(sources)]
    groups = files if len(set(files)) < len(files) else None
    kept, held = stratified_split(labels, fraction, seed, groups, names)
    return tuple(([sources[i] for i in rows], [events[i] for i in rows], timed) for rows in (kept, held))  # type: ignore[return-value]
