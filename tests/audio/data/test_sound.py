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


# ---- layouts and kinds of numbers ------------------------------------------------------------------------------------------

LEFT, RIGHT = TONE, (0.25 * TONE[::-1]).copy()


@pytest.mark.parametrize("layout", ["auto", "first"])
def test_channels_may_come_first(layout: str) -> None:
    """torchaudio's and the Hub's layout, against the other one."""
    for kind in (np.asarray, torch.from_numpy):
        both = np.stack([LEFT, RIGHT])
        for rule in ("left", "right", "mean"):
            first = from_array(kind(both), 16_000, "x", rule, layout)  # type: ignore[operator]
            last = from_array(kind(both.T.copy()), 16_000, "x", rule)  # type: ignore[operator]
            want = {"left": LEFT, "right": RIGHT, "mean": (LEFT + RIGHT) / 2}[rule]
            close(first.read(16_000), torch.from_numpy(want))
            close(last.read(16_000), torch.from_numpy(want))
        assert from_array(kind(both[:1]), 16_000, "x").samples == len(TONE)  # type: ignore[operator]
        with pytest.raises(DataError, match="x has 2 channels"):
            from_array(kind(both), 16_000, "x")  # type: ignore[operator]


def test_a_layout_that_cannot_be_told_is_refused() -> None:
    short, wide = np.stack([LEFT[:20], RIGHT[:20]]), np.ones((100, 200), np.float32)
    for values in (short, wide):
        with pytest.raises(
            DataError, match=r"x has shape .* either axis could be the channels; say layout='first' or 'last'"
        ):
            from_array(values, 16_000, "x", "left")
    close(from_array(short, 16_000, "x", "right", "first").read(16_000), torch.from_numpy(RIGHT[:20].copy()))
    close(from_array(short.T, 16_000, "x", "right", "last").read(16_000), torch.from_numpy(RIGHT[:20].copy()))
    with pytest.raises(DataError, match="layout 'middle' is unknown"):
        from_array(short, 16_000, "x", "left", "middle")


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_S8", "PCM_16", "PCM_32"])
def test_pcm_has_the_scale_that_libsndfile_gives_it(subtype: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.aiff" if subtype == "PCM_S8" else "x.wav")
    soundfile.write(path, TONE, 16_000, subtype=subtype)
    raw = {
        "PCM_U8": lambda: np.frombuffer(path.read_bytes()[-len(TONE) :], np.uint8),
        "PCM_S8": lambda: np.frombuffer(path.read_bytes()[-len(TONE) :], np.int8),
        "PCM_16": lambda: soundfile.read(path, dtype="int16")[0],
        "PCM_32": lambda: soundfile.read(path, dtype="int32")[0],
    }[subtype]()
    close(from_array(raw, 16_000, "x").read(16_000), open_file(path).read(16_000), 1e-6)
    if subtype == "PCM_16":
        offset = (raw.astype(np.int32) + 2**15).astype(np.uint16)
        close(from_array(offset, 16_000, "x").read(16_000), open_file(path).read(16_000), 1e-6)


def test_numbers_that_are_no_pcm_are_refused() -> None:
    whole = (TONE * 32767).astype(np.int64)
    for values, message in (
        (whole, "holds int64, which is no PCM; give floats in"),
        (whole > 0, "holds bool, which is no PCM"),
        (whole.astype(np.float32), r"has floats up to 1[0-9.e+]+; divide them by full scale"),
        (TONE.astype(complex), "holds complex128"),
        ([[1.0], [1.0, 2.0]], "is no array of samples"),
    ):
        with pytest.raises(DataError, match=message):
            from_array(values, 16_000, "x")
    for rate in (0, -1, 0.5, "fast", None, float("nan")):
        with pytest.raises(DataError, match="give a whole number of samples per second"):
            from_array(TONE, rate, "x")


def test_tensors_of_a_model() -> None:
    wave = torch.from_numpy(TONE).requires_grad_()
    close(from_array(wave, torch.tensor(16_000), "x").read(16_000), wave.detach())
    close(from_array(wave.bfloat16(), 16_000.0, "x").read(16_000), wave.detach(), 1e-2)


def test_inputs_of_torchaudio_and_of_the_hub() -> None:
    from pt_audio.data.inputs import input_records

    both = np.stack([LEFT, RIGHT])
    items = [
        (torch.from_numpy(both), 16_000),
        {"array": both, "sampling_rate": 16_000, "path": None},
        {"wave": both.T, "rate": 16_000, "layout": "last"},
    ]
    found = input_records(items, (), "right")
    for clip in found.clips:
        close(clip.read(16_000), torch.from_numpy(RIGHT))
    with pytest.raises(DataError, match=r"array and sampling_rate"):
        input_records([{"array": both}], (), "right")
