"""Generated clips."""

from __future__ import annotations

import numpy as np
from pt_audio.data.synth import LABELS, clip


def test_generated_clips_hold_what_they_say() -> None:
    rng = np.random.default_rng(0)
    made = clip(rng, 6.0, ["bell", "rain"])
    assert [event.label for event in made.events] == ["bell", "rain"]
    assert (
        0 <= made.events[0].onset < made.events[0].offset <= 3.0 <= made.events[1].onset < made.events[1].offset <= 6.0
    )
    for label in LABELS:
        one = clip(np.random.default_rng(1), 4.0, [label])
        (event,) = one.events
        inside = one.wave[int(event.onset * 16_000) : int(event.offset * 16_000)]
        assert np.abs(one.wave).max() <= 1
        assert np.sqrt(np.mean(inside**2)) > 5 * np.sqrt(np.mean(one.wave[: int(event.onset * 16_000)][:4000] ** 2))
    assert np.array_equal(
        clip(np.random.default_rng(7), 4.0, ["dog"]).wave, clip(np.random.default_rng(7), 4.0, ["dog"]).wave
    )
