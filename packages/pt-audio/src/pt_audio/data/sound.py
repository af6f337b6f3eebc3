"""Reading audio: any format of libsndfile, any rate, stereo by an explicit rule. What cannot be read raises, with its path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pt_core.errors import DataError
from torch import Tensor

from pt_audio.options import Stereo

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".opus")
USUAL_RATE = 16_000


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
        return torch.from_numpy(np.ascontiguousarray(mono(content, self.stereo, str(self.path))))

    def digest(self) -> str:
        """Identity of the content."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = self.path.read_bytes() if self.path else np.ascontiguousarray(self.wave, np.float32).tobytes()
        total = hashlib.sha256(content)
        total.update(f"{self.rate},{self.samples},{self.start},{self.stereo}".encode())
        return total.hexdigest()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def open_file(path: Path, stereo: Stereo = "error") -> Source:
    """Look at a file without reading its samples.

    Raises:
        DataError: missing, unreadable, empty, or of several channels without a rule; names the path.
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
    if info.frames <= 0:
        raise DataError(f"{path} has no samples; leave it out")
    if info.channels > 1 and stereo == "error":
        raise DataError(f"{path} has {info.channels} channels; say what to do with them: --stereo mean, left or right")
    return Source(str(path), int(info.samplerate), int(info.frames), path, None, stereo)


def from_array(wave: Any, rate: int, name: str, stereo: Stereo = "error") -> Source:
    """A clip in memory: (samples,) or (samples, channels), floats in [-1, 1] or integers.

    Raises:
        DataError: empty, of another shape, not finite, or of several channels without a rule.
    """
    values = wave.numpy() if isinstance(wave, Tensor) else np.asarray(wave)
    if values.dtype.kind in "iu":
        values = values / float(-np.iinfo(values.dtype).min or np.iinfo(values.dtype).max)
    if values.ndim not in (1, 2) or values.size == 0 or rate <= 0:
        raise DataError(f"{name} has shape {values.shape} at rate {rate}; give (samples,) or (samples, channels)")
    if values.ndim == 2:
        values = mono(values, stereo, name)
    return Source(name, int(rate), len(values), None, values.astype(np.float32), stereo)


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
