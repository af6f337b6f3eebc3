"""Reading audio: formats, rates, channels, and everything that must be refused with its path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pt_audio.data.sound import from_array, open_file, rate_notes
from pt_core.errors import DataError

from tests.audio.tiny import close

TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16_000)).astype(np.float32)


def write(path: Path, wave: np.ndarray = TONE, rate: int = 16_000) -> Path:
    soundfile.write(path, wave, rate)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    clip = open_file(write(tmp_path / f"tone.{suffix}"))
    wave = clip.read(16_000)
    assert wave.dtype == torch.float32
    assert len(wave) == clip.samples
    at = slice(2000, 4000)  # the middle: lossy formats ring at the ends
    spectrum = torch.fft.rfft(wave[at]).abs()
    assert int(spectrum.argmax()) == 55  # 440 Hz at 8 Hz per bin


def test_another_rate_is_resampled_with_a_note(tmp_path: Path) -> None:
    tone = (0.4 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8_000)).astype(np.float32)
    clip = open_file(write(tmp_path / "a.wav", tone, 8_000))
    wave = clip.read(16_000)
    assert len(wave) == clip.samples_at(16_000) == 8000
    close(wave[1000:7000], torch.from_numpy(TONE)[1000:7000], 0.02)
    assert rate_notes([clip, clip, open_file(write(tmp_path / "b.wav"))]) == [
        "2 clips at 8,000 Hz are resampled to the encoder's rate"
    ]
    assert open_file(write(tmp_path / "c.wav", TONE[:4001], 22_050)).samples_at(16_000) == -(-4001 * 16_000 // 22_050)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100])
def test_the_number_of_samples_is_known_before_reading(rate: int, tmp_path: Path) -> None:
    clip = open_file(write(tmp_path / "a.wav", TONE[:5003], rate))
    assert len(clip.read(16_000)) == clip.samples_at(16_000)


def test_stereo_needs_a_rule(tmp_path: Path) -> None:
    path = write(tmp_path / "two.wav", np.stack([TONE, TONE * 0.5], 1))
    with pytest.raises(DataError, match=r"two.wav has 2 channels.*--stereo mean"):
        open_file(path)
    left, right, mean = (open_file(path, rule).read(16_000) for rule in ("left", "right", "mean"))
    close(mean, (left + right) / 2)
    close(right, left / 2, 1e-3)
    with pytest.raises(DataError, match="stereo rule 'both' is unknown"):
        open_file(path, "both")  # type: ignore[arg-type]


def test_what_cannot_be_read_raises_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    write(tmp_path / "empty.wav", TONE[:0])
    (tmp_path / "nothing.wav").write_bytes(b"")
    for name, message in (
        ("text.wav", "text.wav cannot be read as audio"),
        ("nothing.wav", "nothing.wav cannot be read as audio"),
        ("empty.wav", "empty.wav has no samples"),
        ("absent.wav", "absent.wav does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            open_file(tmp_path / name)


def test_a_silent_or_infinite_clip_is_no_constant_spectrogram(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"quiet.wav is silent"):
        open_file(write(tmp_path / "quiet.wav", TONE * 0)).read(16_000)
    bad = TONE.copy()
    bad[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"nan.wav has samples that are not finite"):
        open_file(tmp_path / "nan.wav").read(16_000)


def test_a_truncated_file_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.flac")
    clip = open_file(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cut.flac"):
        from pt_audio.adapters.logmel import LogMel
        from pt_audio.data.segments import clip_features

        clip_features(clip, LogMel(frames=16))


def test_arrays() -> None:
    whole = from_array((TONE * 32767).astype(np.int16), 16_000, "ints").read(16_000)
    close(whole, torch.from_numpy(TONE), 1e-3)
    close(from_array(torch.from_numpy(TONE), 16_000, "tensor").read(16_000), torch.from_numpy(TONE))
    with pytest.raises(DataError, match=r"x has 2 channels"):
        from_array(np.stack([TONE, TONE], 1), 16_000, "x")
    for bad in (TONE[:0], np.zeros((2, 2, 2))):
        with pytest.raises(DataError, match="has shape"):
            from_array(bad, 16_000, "bad")
    assert from_array(TONE, 16_000, "a").digest() != from_array(TONE, 8_000, "a").digest()
