"""Generated multi-subject sensor data: every subject performs the same activities, each with an own body and sensor.

An activity is a sum of harmonics per channel. A subject turns the sensor (a rotation of the channels), moves faster or slower, stronger or
weaker, and has an own offset and noise; `shift` scales how far subjects are from each other (0: all alike).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pt_core.data import generator
from torch import Tensor

from pt_timeseries.data.domains import Domain, Domains, collect

ACTIVITIES = ("rest", "walk", "run", "turn", "jump")
CHANNELS, LENGTH, HARMONICS = 6, 128, 3
TEMPO = (0.7, 1.6, 2.4, 1.2, 2.0)
"""Cycles per window of each activity."""
STRENGTH = (0.5, 1.0, 1.2, 0.8, 1.1)


@dataclass(frozen=True)
class Subject:
    """What a subject does to the activities."""

    turn: Tensor
    tempo: float
    strength: float
    offset: Tensor
    echo: Tensor


def subject(name: str, shift: float) -> Subject:
    """A function of the name and the shift only."""
    rng = generator("subject", name)
    skew = torch.randn(CHANNELS, CHANNELS, generator=rng)
    turn = torch.linalg.matrix_exp(0.35 * shift * (skew - skew.T))
    tempo, strength = (0.25 * shift * torch.randn(2, generator=rng)).exp().clamp(0.5, 2.0).tolist()
    offset = 0.3 * shift * torch.randn(CHANNELS, generator=rng)
    echo = 0.3 * shift * torch.randn(CHANNELS, generator=rng)
    return Subject(turn, tempo, strength, offset, echo)


def record(who: Subject, activity: int, count: int, noise: float, rng: torch.Generator) -> Tensor:
    """(count, channel, step): windows of one activity with random phases."""
    pattern = generator("activity", activity)
    weights = torch.randn(CHANNELS, HARMONICS, generator=pattern) / torch.arange(1, HARMONICS + 1)
    lags = 2 * math.pi * torch.rand(CHANNELS, HARMONICS, generator=pattern)
    time = torch.arange(LENGTH) / LENGTH
    tempo = TEMPO[activity] * who.tempo * (0.1 * torch.randn(count, 1, 1, 1, generator=rng)).exp()
    phase = 2 * math.pi * torch.rand(count, 1, 1, 1, generator=rng)
    order = torch.arange(1, HARMONICS + 1).view(1, 1, -1, 1)
    waves = (order * (2 * math.pi * tempo * time + phase) + lags[None, :, :, None]).sin()
    clean = STRENGTH[activity] * who.strength * (weights[None, :, :, None] * waves).sum(2)
    clean = clean + who.echo[:, None] * clean.roll(LENGTH // 8, -1) + who.offset[:, None]
    turned = torch.einsum("ij,bjt->bit", who.turn, clean)
    return turned + noise * torch.randn(turned.shape, generator=rng)


def sensor_data(
    subjects: Sequence[str],
    per_class: int = 32,
    shift: float = 1.0,
    noise: float = 0.8,
    seed: int = 0,
    bodies: dict[str, str] | None = None,
) -> Domains:
    """Domains named by subject.

    Args:
        subjects: names; a subject's body is a function of its name.
        per_class: windows per activity and subject.
        shift: how far the subjects are from each other.
        noise: standard deviation of the sensor noise.
        seed: of phases and noise.
        bodies: subject -> the subject whose body it has (a twin).
    """
    items = []
    for name in subjects:
        who = subject((bodies or {}).get(name, name), shift)
        rng = generator("windows", seed, name)
        blocks = [record(who, activity, per_class, noise, rng) for activity in range(len(ACTIVITIES))]
        # Activities take turns, so that a cut in time leaves all of them on both sides.
        values = torch.stack(blocks, 1).flatten(0, 1)
        items.append(Domain(name, values.numpy(), [*ACTIVITIES] * per_class))
    return collect(items, "generated data", ACTIVITIES)


def builtin(name: str, shift: float) -> Domains:
    """`motion`: subjects s1 to s6 and the target t. `twins`: the same, but t has the body of s3."""
    sources = [f"s{number}" for number in range(1, 7)]
    return sensor_data([*sources, "t"], shift=shift, bodies={"t": "s3"} if name == "twins" else None)
