"""Generated clips as training material of the encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pt_audio.adapters.logmel import LogMel
from pt_audio.data import synth

TARGETS = (*synth.LABELS, *synth.PHONES)
"""What a patch is asked about."""
FRONT = LogMel(bins=64, mean=-4.0, std=2.3)


@dataclass(frozen=True)
class Pool:
    """Generated clips: spectrograms (T_i, bins), events per frame of 10 ms (T_i, target), events per clip (label,)."""

    spectrograms: list[Tensor]
    when: list[Tensor]
    what: Tensor


def generate(count: int, seed: int) -> Pool:
    """Half of the clips hold 1 to 3 events, half are speech-like."""
    rng = np.random.default_rng(seed)
    spectrograms, when, what = [], [], torch.zeros(count, len(synth.LABELS))
    for number in tqdm(range(count), desc="generating", leave=False, delay=2):
        seconds = float(rng.uniform(5, 10))
        if number % 2:
            wave, phones = synth.speech(rng, seconds)
            wave = wave + (0.002 * rng.uniform(0.1, 2) * rng.standard_normal(len(wave))).astype(np.float32)
            events = [synth.Event("voice", 0, seconds), *phones]
        else:
            clip = synth.random_clip(rng, seconds)
            wave, events = clip.wave, list(clip.events)
        spectrogram = FRONT.spectrogram(torch.from_numpy(wave))
        marks = torch.zeros(len(spectrogram), len(TARGETS))
        for event in events:
            marks[round(event.onset * 100) : round(event.offset * 100), TARGETS.index(event.label)] = 1
            if event.label in synth.LABELS:
                what[number, synth.LABELS.index(event.label)] = 1
        spectrograms.append(spectrogram)
        when.append(marks)
    return Pool(spectrograms, when, what)


def draw(pool: Pool, rows: np.ndarray, rng: np.random.Generator, keep: float, patch: int) -> tuple[Tensor, ...]:
    """A batch: some clips cut short, levels and speeds of the features shifted a little; `keep` of the patches, sound first."""
    batch, when, kept = [], [], []
    for row in rows:
        spectrogram, marks = pool.spectrograms[row], pool.when[row]
        if rng.random() < 0.4:
            length = int(rng.integers(24, 200))
            start = int(rng.integers(0, max(1, len(spectrogram) - length)))
            spectrogram, marks = spectrogram[start : start + length], marks[start : start + length]
        spectrogram = spectrogram + float(rng.normal(0, 0.5))
        segment = FRONT.segments(spectrogram)[0]
        padded = F.pad(marks, (0, 0, 0, FRONT.frames - len(marks)))
        batch.append(segment)
        when.append(padded.view(-1, patch, padded.shape[1]).mean(1).round())
        count = round(keep * (FRONT.frames // patch) * (FRONT.bins // patch))
        order = torch.from_numpy(rng.random((FRONT.frames // patch, FRONT.bins // patch)))
        order[: -(-len(spectrogram) // patch)] += 0.5  # patches with sound are seen more often than padding
        kept.append(order.flatten().argsort(descending=True)[:count])
    return torch.stack(batch), torch.stack(when), torch.stack(kept)
