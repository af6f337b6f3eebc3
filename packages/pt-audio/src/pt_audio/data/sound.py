"""Reading audio: any format of libsndfile, any rate, stereo by an explicit rule. What cannot be read raises, with its path."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pt_core.errors import DataError
from torch import Tensor

from pt_audio.data.whole import check_whole
from pt_audio.options import Stereo

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".opus")
USUAL_RATE = 16_000
LAYOUTS = ("auto", "first", "last")
MOST_CHANNELS = 32
"""An axis of at most so many entries beside a longer one is that of the channels."""
LOUDEST = 64.0
"""Floats above are PCM that was not scaled; decoders overshoot 1 by little."""


@dataclass(frozen=True)
class Source:
    """An audio clip: a file, or samples in memory.

    Attributes:
        name: for ids and messages.
        rate: samples per second.
        samples: number of samples per channel.
        path: the file, or None.
        wave: (samples,) float32, or None.
        start: first sample that counts (a clip may be a part of a file).
    """

    name: str
    rate: int
    samples: int
    path: Path | None = None
    wave: Any = None
    stereo: Stereo = "error"
    start: int = 0

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def samples_at(self, rate: int) -> int:
        """Samples after resampling."""
        return self.samples if rate == self.rate else -(-self.samples * rate // self.rate)

    def read(self, rate: int) -> Tensor:
        """(samples,) float32 mono at `rate`.

        Raises:
            DataError: unreadable, not finite, or silent (a constant signal has no features, and a constant spectrogram is no data).
        """
        wave = self._load()
        if not bool(torch.isfinite(wave).all()):
            raise DataError(f"{self.name} has samples that are not finite; repair or leave out the file")
        if float(wave.max()) == float(wave.min()):
            raise DataError(f"{self.name} is silent (all samples are equal); leave it out")
        return wave if rate == self.rate else resample(wave, self.rate, rate)

    def _load(self) -> Tensor:
        if self.path is None:
            return torch.from_numpy(np.asarray(self.wave, dtype=np.float32))
        import soundfile

        try:
            content, _ = soundfile.read(
                self.path, frames=self.samples, start=self.start, dtype="float32", always_2d=True
            )
        except (OSError, RuntimeError) as error:
            raise DataError(f"{self.path} cannot be read as audio ({_reason(error)})") from None
        if len(content) == 0:
            raise DataError(f"{self.path} has no samples; leave it out")
        if len(content) < self.samples:
            raise DataError(
                f"{self.path} is truncated: its header promises {self.samples:,} samples, {len(content):,} can be read; get it again, or "
                "leave it out"
            )
        return torch.from_numpy(np.ascontiguousarray(mono(content, self.stereo, str(self.path))))

    def digest(self) -> str:
        """Identity of the content."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        if self.path:
            told = self.path.stat()
            total = _content(self.path, told.st_mtime_ns, told.st_size).copy()
        else:
            total = hashlib.sha256(np.ascontiguousarray(self.wave, np.float32).tobytes())
        total.update(f"{self.rate},{self.samples},{self.start},{self.stereo}".encode())
        return total.hexdigest()


@lru_cache(maxsize=1024)
def _content(path: Path, changed: int, size: int) -> Any:
    """The file's hash, which its parts begin with; one that was changed in between is read again."""
    return hashlib.sha256(path.read_bytes())


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def open_file(path: Path, stereo: Stereo = "error") -> Source:
    """Look at a file without reading its samples.

    Raises:
        DataError: missing, unreadable, empty, cut off, or of several channels without a rule; names the path.
    """
    import soundfile

    if stereo not in get_args(Stereo):
        raise DataError(f"stereo rule {stereo!r} is unknown; use one of {', '.join(get_args(Stereo))}")
    if not path.is_file():
        raise DataError(f"audio file {path} does not exist")
    try:
        info = soundfile.info(path)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as audio ({_reason(error)})") from None
    check_whole(path, int(info.frames))
    if info.frames <= 0:
        raise DataError(f"{path} has no samples; leave it out")
    if info.channels > 1 and stereo == "error":
        raise DataError(f"{path} has {info.channels} channels; say what to do with them: --stereo mean, left or right")
    return Source(str(path), int(info.samplerate), int(info.frames), path, None, stereo)


def from_array(wave: Any, rate: Any, name: str, stereo: Stereo = "error", layout: str = "auto") -> Source:
    """A clip in memory: (samples,), (samples, channels) or (channels, samples); floats around [-1, 1], or PCM of 8 to 32 bits (unsigned
    numbers have their zero in the middle).

    Args:
        layout: `first` or `last` says which axis the channels are; `auto` takes the one that can only be they.

    Raises:
        DataError: empty, of another shape, not finite, of numbers that are no PCM, of channels that could be either axis, or of several
            channels without a rule.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    values = scaled(_array(wave, name), name)
    rate = _rate(rate, name)
    if values.ndim not in (1, 2) or values.size == 0:
        raise DataError(f"{name} has shape {values.shape}; give (samples,), (samples, channels) or (channels, samples)")
    if values.ndim == 2:
        values = mono(values.T if _channels_first(values.shape, layout, name) else values, stereo, name)
    return Source(name, rate, len(values), None, np.ascontiguousarray(values, np.float32), stereo)


def _rate(rate: Any, name: str) -> int:
    try:
        number = float(rate)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not (1 <= number < 2**31 and number.is_integer()):
        raise DataError(f"{name} has rate {str(rate)[:40]}; give a whole number of samples per second")
    return int(number)


def _array(wave: Any, name: str) -> Any:
    if isinstance(wave, Tensor):
        wave = wave.detach().cpu()
        wave = wave.float() if wave.is_floating_point() else wave  # NumPy has no bfloat16
    try:
        return np.asarray(wave)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name} is no array of samples ({_reason(error)})") from None


def scaled(values: Any, name: str) -> Any:
    """Samples as floats around [-1, 1].

    Raises:
        DataError: another kind of number; a scale is not guessed.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "f":
        largest = float(np.nanmax(np.abs(values), initial=0.0, where=np.isfinite(values)))
        if largest > LOUDEST:
            raise DataError(
                f"{name} has floats up to {largest:g}; divide them by full scale, so that they lie in [-1, 1]"
            )
        return values.astype(np.float32)
    if kind == "i" and size <= 4:
        return (values / 2.0 ** (8 * size - 1)).astype(np.float32)
    if kind == "u" and size <= 2:
        half = 2.0 ** (8 * size - 1)
        return ((values - half) / half).astype(np.float32)
    raise DataError(
        f"{name} holds {values.dtype}, which is no PCM; give floats in [-1, 1], int8, int16, int32, uint8 or uint16"
    )


def _channels_first(shape: tuple[int, ...], layout: str, name: str) -> bool:
    first, last = shape
    if layout != "auto":
        return layout == "first"
    if (first <= MOST_CHANNELS) == (last <= MOST_CHANNELS):
        raise DataError(
            f"{name} has shape {shape}, of which either axis could be the channels; say layout='first' or 'last' (a mapping with wave, "
            "rate and layout), or give (samples,)"
        )
    return first <= MOST_CHANNELS


def mono(content: Any, stereo: Stereo, name: str) -> Any:
    """(samples, channels) -> (samples,) by the rule."""
    if content.shape[1] == 1 or stereo == "left":
        return content[:, 0]
    if stereo == "error":
        raise DataError(
            f"{name} has {content.shape[1]} channels; say what to do with them: --stereo mean, left or right"
        )
    return content.mean(1, dtype=np.float32) if stereo == "mean" else content[:, -1]


def resample(wave: Tensor, old: int, new: int) -> Tensor:
    """(samples,) at `old` -> (ceil(samples * new / old),) at `new`, by torchaudio's windowed sinc."""
    from torchaudio.functional import resample as windowed_sinc

    result: Tensor = windowed_sinc(wave, old, new)
    return result


def rate_notes(sources: list[Source]) -> list[str]:
    """What to tell of clips at another rate than the encoders here read."""
    odd: dict[int, int] = {}
    for source in sources:
        if source.rate != USUAL_RATE:
            odd[source.rate] = odd.get(source.rate, 0) + 1
    return [f"{count} clips at {rate:,} Hz are resampled to the encoder's rate" for rate, count in sorted(odd.items())]
