"""Kaldi-compatible log-mel features in plain torch, and the cut into segments of 10.24 s.

    wave (samples,) -> minus mean, / max |wave| * 0.5
         -> frames of 25 ms every 10 ms: minus mean, pre-emphasis 0.97, Hann window, |rfft|^2
         -> triangular mel filters between 20 Hz and the Nyquist frequency -> log(max(x, eps))
         -> zero-padded and cut into (segment, 1024, 128)

A test compares the features with those of torchaudio's `compliance.kaldi.fbank` and of transformers' AST feature extractor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F

EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class LogMel:
    """The front end of spectrogram encoders.

    Attributes:
        rate: samples per second that the encoder was trained on (the filters reach to its half, so it belongs to the checkpoint).
        frames, bins: T x F of a segment.
        window, shift: in milliseconds.
        mean, std: x -> (x - mean) / (2 std), or None for no normalisation (the default of APT's code); Audio-MAE's checkpoint was
            trained with a normalisation of this form, and with mean -5.081, std 4.4849 on AudioSet in APT's code.
        peak: whether the waveform is scaled to a peak of 0.5 first.
    """

    rate: Annotated[int, Ge(1000)] = 16_000
    frames: Annotated[int, Ge(1)] = 1024
    bins: Annotated[int, Ge(4)] = 128
    window: Annotated[float, Gt(0)] = 25.0
    shift: Annotated[float, Gt(0)] = 10.0
    mean: float | None = None
    std: float | None = None
    peak: bool = True

    def __call__(self, wave: Tensor) -> Tensor:
        """(samples,) at `rate` -> (segment, frames, bins)."""
        return self.segments(self.spectrogram(wave))

    def spectrogram(self, wave: Tensor) -> Tensor:
        """(samples,) -> (T, bins), before padding and normalisation."""
        wave = wave.float() - wave.float().mean()
        if self.peak:
            wave = wave / wave.abs().max().clamp(min=1e-12) * 0.5
        return fbank(wave, self.rate, self.bins, self.window, self.shift)

    def segments(self, spectrogram: Tensor) -> Tensor:
        """(T, bins) -> (ceil(T / frames), frames, bins): the last segment is zero-padded, then all are normalised."""
        count = max(1, math.ceil(len(spectrogram) / self.frames))
        padded = F.pad(spectrogram, (0, 0, 0, count * self.frames - len(spectrogram)))
        if self.mean is not None and self.std is not None:
            padded = (padded - self.mean) / (2 * self.std)
        return padded.view(count, self.frames, self.bins)

    def count(self, samples: int) -> int:
        """Segments of a wave of this length."""
        frames = max(1, (samples - round(self.rate * self.window / 1000)) // round(self.rate * self.shift / 1000) + 1)
        return math.ceil(frames / self.frames)

    @property
    def shape(self) -> tuple[int, int]:
        return self.frames, self.bins

    @property
    def seconds(self) -> float:
        """Length of a segment."""
        return self.frames * self.shift / 1000

    def describe(self) -> Mapping[str, Any]:
        """What is recorded as the preprocessing of the backbone."""
        return {"features": "kaldi log-mel", **asdict(self)}


def fbank(wave: Tensor, rate: int, bins: int, window: float = 25.0, shift: float = 10.0) -> Tensor:
    """(samples,) -> (T, bins). A wave shorter than one window is zero-padded to one."""
    size, hop = round(rate * window / 1000), round(rate * shift / 1000)
    if len(wave) < size:
        wave = F.pad(wave, (0, size - len(wave)))
    frames = wave.unfold(0, size, hop)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], 1)
    length = 1 << (size - 1).bit_length()
    power = torch.fft.rfft(frames * torch.hann_window(size, periodic=False), n=length).abs() ** 2
    return (power[:, : length // 2] @ mel_filters(bins, length, rate)).clamp(min=EPSILON).log()


@cache
def mel_filters(bins: int, length: int, rate: int, low: float = 20.0) -> Tensor:
    """(length / 2, bins) triangles that are equally wide on Kaldi's mel scale, 1127 ln(1 + f / 700)."""

    def mel(frequency: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(frequency / 700.0)

    ends = mel(torch.tensor([low, rate / 2], dtype=torch.float64))
    step = (ends[1] - ends[0]) / (bins + 1)
    left = ends[0] + step * torch.arange(bins)
    at = mel(torch.arange(length // 2, dtype=torch.float64) * rate / length)[:, None]
    rising, falling = (at - left) / step, (left + 2 * step - at) / step
    return torch.minimum(rising, falling).clamp(min=0).float()
