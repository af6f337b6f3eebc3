"""Generated sounds: fifteen kinds of events from oscillators, noise and resonators, and clips in which they happen.

They imitate what their names say and are no recordings. Everything is a function of a numpy generator, so clips are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]
RATE = 16_000
"""Samples per second of generated audio."""
TAU = 2 * np.pi


@dataclass(frozen=True)
class Event:
    """Something that is heard from `onset` to `offset` (seconds)."""

    label: str
    onset: float
    offset: float


@dataclass(frozen=True)
class SoundClip:
    """A generated clip: `wave` (samples,) and its events in order of onset."""

    wave: Wave
    events: tuple[Event, ...]


def _time(seconds: float) -> NDArray[np.float64]:
    return np.arange(max(1, round(seconds * RATE))) / RATE


def _sweep(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Phase of an oscillator whose frequency (Hz) is given per sample."""
    return TAU * np.cumsum(frequency) / RATE


def _resonate(source: NDArray[np.float64], frequency: float, width: float) -> NDArray[np.float64]:
    """Two-pole resonator at `frequency` Hz with a bandwidth of `width` Hz."""
    from scipy.signal import lfilter

    radius = np.exp(-np.pi * width / RATE)
    return np.asarray(lfilter([1 - radius], [1, -2 * radius * np.cos(TAU * frequency / RATE), radius**2], source))


def _pulses(rng: np.random.Generator, seconds: float, rate: float, decay: float) -> NDArray[np.float64]:
    """Bursts at about `rate` per second that die out with `decay` (seconds): an envelope."""
    t, envelope = _time(seconds), np.zeros(len(_time(seconds)))
    at = rng.uniform(0, 0.3 / rate)
    while at < seconds:
        start = int(at * RATE)
        envelope[start:] = np.maximum(envelope[start:], np.exp(-(t[: len(t) - start]) / decay) * rng.uniform(0.7, 1))
        at += rng.uniform(0.8, 1.2) / rate
    return envelope


def _harmonics(phase: NDArray[np.float64], tilt: float, count: int = 12) -> NDArray[np.float64]:
    return np.sum([np.sin(k * phase) / k**tilt for k in range(1, count + 1)], axis=0)


def beep(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, rate = _time(seconds), rng.uniform(2, 4)
    return np.sin(TAU * rng.uniform(800, 2500) * t) * (np.mod(t * rate, 1) < 0.5)


def siren(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, centre = _time(seconds), rng.uniform(600, 1100)
    return _harmonics(_sweep(centre * (1 + 0.4 * np.sin(TAU * rng.uniform(0.4, 1.0) * t))), 1.5, 4)


def bell(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, base = _time(seconds), rng.uniform(400, 1200)
    partials = (1.0, 2.0, 2.4, 3.0, 4.5, 5.3)
    ring = np.sum([np.sin(TAU * base * p * t + rng.uniform(0, 6)) / (1 + n) for n, p in enumerate(partials)], axis=0)
    return ring * _pulses(rng, seconds, rng.uniform(0.8, 1.6), 0.35)


def clock(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    noise = _resonate(rng.standard_normal(len(_time(seconds))), rng.uniform(2500, 4500), 600)
    return 6 * noise * _pulses(rng, seconds, rng.uniform(1.8, 3), 0.012)


def drum(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t = _time(seconds)
    body = np.sin(TAU * rng.uniform(70, 130) * t) + 0.15 * rng.standard_normal(len(t))
    return body * _pulses(rng, seconds, rng.uniform(1.5, 3.5), 0.09)


def rain(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    noise = rng.standard_normal(len(_time(seconds)))
    return np.diff(noise, prepend=0.0) * 0.5 + 0.2 * noise


def wind(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t = _time(seconds)
    gust = 1 + 0.6 * np.sin(TAU * rng.uniform(0.2, 0.6) * t + rng.uniform(0, 6))
    return 8 * _resonate(rng.standard_normal(len(t)), rng.uniform(250, 600), 200) * gust


def engine(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, base = _time(seconds), rng.uniform(40, 90)
    drift = base * (1 + 0.05 * np.sin(TAU * rng.uniform(0.3, 1) * t))
    return _harmonics(_sweep(drift), 0.8, 20) + 0.2 * rng.standard_normal(len(t))


def bird(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, rate = _time(seconds), rng.uniform(3, 6)
    place = np.mod(t * rate, 1)
    tone = np.sin(_sweep(rng.uniform(2500, 4500) * (1 + rng.uniform(0.15, 0.35) * place)))
    return tone * np.sin(np.pi * np.clip(place / 0.6, 0, 1)) * (place < 0.6)


def dog(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, rate = _time(seconds), rng.uniform(1.5, 2.8)
    place = np.mod(t * rate, 1)
    pitch = rng.uniform(250, 500) * (1.2 - 0.5 * place)
    voiced = _harmonics(_sweep(pitch), 0.5, 10) + 0.5 * rng.standard_normal(len(t))
    return _resonate(voiced, rng.uniform(700, 1200), 300) * 5 * np.exp(-place * 8) * (place < 0.5)


def cat(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, rate = _time(seconds), rng.uniform(0.8, 1.3)
    place = np.mod(t * rate, 1)
    arch = np.sin(np.pi * np.clip(place / 0.8, 0, 1))
    source = _harmonics(_sweep(rng.uniform(450, 700) * (0.9 + 0.4 * arch)), 0.7, 10)
    return (_resonate(source, 1100, 250) + _resonate(source, 2600, 400)) * 4 * arch * (place < 0.8)


def horn(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t, base = _time(seconds), rng.uniform(280, 420)
    return _harmonics(TAU * base * t, 0.6) + _harmonics(TAU * base * 1.26 * t, 0.6)


def whistle(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    t = _time(seconds)
    tremble = 1 + 0.04 * np.sin(TAU * rng.uniform(15, 30) * t)
    return np.sin(_sweep(rng.uniform(2200, 3600) * tremble)) + 0.05 * rng.standard_normal(len(t))


def hum(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    return _harmonics(TAU * rng.choice([50.0, 60.0]) * 2 * _time(seconds), 1.2, 8)


VOWELS = {
    "ah": (730, 1090, 2440),
    "ee": (270, 2290, 3010),
    "oo": (300, 870, 2240),
    "eh": (530, 1840, 2480),
    "oh": (570, 840, 2410),
    "ih": (390, 1990, 2550),
}
"""Vowel -> its first three formants in Hz (textbook averages for adult speakers)."""
HISSES = {"s": 6200.0, "sh": 2900.0, "f": 4300.0}
PHONES = (*VOWELS, *HISSES)


def _voice(rng: np.random.Generator, seconds: float) -> tuple[NDArray[np.float64], list[Event]]:
    """Syllables of hisses and gliding vowels, and which phone sounds when."""
    wave, phones, at = [], [], 0.0
    pitch, size = rng.uniform(85, 260), rng.uniform(0.9, 1.2)
    names = list(VOWELS)
    vowel = names[rng.integers(len(names))]
    while at < seconds:
        if rng.random() < 0.45:
            hiss = list(HISSES)[rng.integers(len(HISSES))]
            length = rng.uniform(0.06, 0.16)
            burst = _resonate(rng.standard_normal(len(_time(length))), HISSES[hiss], 1500) * rng.uniform(0.5, 1.5)
            wave.append(burst * np.hanning(len(burst)))
            phones.append(Event(hiss, at, at + length))
            at += length
        after = names[rng.integers(len(names))]
        length = rng.uniform(0.1, 0.3)
        t = _time(length)
        source = _harmonics(_sweep(pitch * (1 + rng.uniform(-0.2, 0.2) * t / length)), 1.0, 30)
        mix = np.clip(np.linspace(-0.5, 1.5, len(t)), 0, 1)
        sound = np.zeros(len(t))
        for low, high in zip(VOWELS[vowel], VOWELS[after], strict=True):
            width = 70 + 0.04 * low
            sound += _resonate(source, low * size, width) * (1 - mix) + _resonate(source, high * size, width) * mix
        wave.append(sound * np.hanning(len(t)) ** 0.5)
        phones += [Event(vowel, at, at + length / 2), Event(after, at + length / 2, at + length)]
        at, vowel = at + length, after
        if rng.random() < 0.25:
            gap = rng.uniform(0.02, 0.1)
            wave.append(np.zeros(len(_time(gap))))
            at += gap
    return np.concatenate(wave)[: len(_time(seconds))] * 3, phones


def voice(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    return _voice(rng, seconds)[0]


SOUNDS: dict[str, Callable[[np.random.Generator, float], NDArray[np.float64]]] = {
    fn.__name__: fn
    for fn in (
        beep, siren, bell, clock, drum, rain, wind, engine, bird, dog, cat, horn, whistle, hum, voice
    )
}  # fmt: skip
"""Label -> fn(generator, seconds) -> samples."""
LABELS = tuple(SOUNDS)


def _levelled(rng: np.random.Generator, wave: NDArray[np.float64]) -> NDArray[np.float64]:
    """About the same loudness for all kinds, with short fades at both ends."""
    fade = min(len(wave) // 4, 160)
    wave = wave / (np.sqrt(np.mean(wave**2)) + 1e-9) * rng.uniform(0.06, 0.14)
    wave[:fade] *= np.linspace(0, 1, fade)
    wave[len(wave) - fade :] *= np.linspace(1, 0, fade)
    return wave


def sound(rng: np.random.Generator, label: str, seconds: float) -> Wave:
    """(samples,) of one event."""
    return _levelled(rng, SOUNDS[label](rng, seconds)).astype(np.float32)


def clip(rng: np.random.Generator, seconds: float, labels: Sequence[str]) -> SoundClip:
    """Events with these labels one after another, with gaps, over faint noise; onsets and offsets are whole seconds apart by nature of
    their slots: event k lies inside the k-th of len(labels) equal parts of the clip."""
    wave = 0.003 * rng.uniform(0.3, 2) * rng.standard_normal(round(seconds * RATE))
    part, events = seconds / len(labels), []
    for number, label in enumerate(labels):
        length = rng.uniform(0.55, 0.95) * part
        onset = number * part + rng.uniform(0, part - length)
        samples = sound(rng, label, length)
        start = round(onset * RATE)
        wave[start : start + len(samples)] += samples[: len(wave) - start]
        events.append(Event(label, onset, onset + length))
    return SoundClip(np.clip(wave, -1, 1).astype(np.float32), tuple(events))


def random_clip(rng: np.random.Generator, seconds: float, most: int = 3) -> SoundClip:
    """A clip with 1 to `most` different events."""
    count = int(rng.integers(1, most + 1))
    return clip(rng, seconds, [LABELS[i] for i in rng.choice(len(LABELS), count, replace=False)])


def speech(rng: np.random.Generator, seconds: float) -> tuple[Wave, list[Event]]:
    """Speech-like sound and its phones (for pretraining)."""
    wave, phones = _voice(rng, seconds)
    return _levelled(rng, wave).astype(np.float32), phones
