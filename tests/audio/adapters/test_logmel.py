"""The features: against torchaudio's and transformers' references, and how clips become segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pt_audio.adapters.logmel import LogMel, fbank
from torchaudio.compliance import kaldi

from tests.audio.tiny import close


def wave(seconds: float, rate: int = 16_000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(int(seconds * rate)) / rate
    return 0.3 * torch.sin(2 * torch.pi * 440 * t) + 0.1 * torch.randn(len(t), generator=generator)


@pytest.mark.parametrize(("rate", "bins"), [(16_000, 128), (32_000, 128), (16_000, 64), (8_000, 40)])
def test_features_are_those_of_torchaudio(rate: int, bins: int) -> None:
    given = wave(1.5, rate)
    want = kaldi.fbank(
        given[None], htk_compat=True, sample_frequency=rate, use_energy=False, window_type="hanning",
        num_mel_bins=bins, dither=0.0, frame_shift=10,
    )  # fmt: skip
    close(fbank(given, rate, bins), want, 3e-4)


def test_normalised_features_are_those_of_transformers_for_ast() -> None:
    from transformers import ASTFeatureExtractor

    reader = ASTFeatureExtractor()
    given = wave(3.0)
    want = torch.as_tensor(np.asarray(reader(given.numpy(), sampling_rate=16_000)["input_values"][0]))
    front = LogMel(frames=reader.max_length, mean=reader.mean, std=reader.std, peak=False)
    close(front(given)[0], want, 1e-3)


def test_the_waveform_is_centred_and_scaled_to_half() -> None:
    front = LogMel()
    close(front(wave(2.0) * 7 + 3)[0], front(wave(2.0))[0], 1e-4)  # peak 0.5 whatever the level and offset were
    quiet = LogMel(peak=False)
    assert (quiet.spectrogram(wave(1.0) * 0.1) - front.spectrogram(wave(1.0))).abs().max() > 1


@pytest.mark.parametrize(("seconds", "segments"), [(0.01, 1), (10.0, 1), (10.24, 1), (10.27, 2), (25.0, 3)])
def test_segments_of_ten_seconds(seconds: float, segments: int) -> None:
    front = LogMel()
    found = front(wave(seconds))
    assert found.shape == (segments, 1024, 128)
    assert front.count(int(seconds * 16_000)) == segments


def test_trailing_zeros_inside_a_segment_change_neither_number_nor_beginning() -> None:
    front = LogMel()
    given = wave(3.0) - wave(3.0).mean()
    longer = torch.cat([given, torch.zeros(16_000)])
    short, padded = front(given), front(longer)
    assert short.shape == padded.shape
    frames = (len(given) - 400) // 160
    close(padded[0, :frames], short[0, :frames], 1e-4)
    assert bool((short[0, frames + 1 :] == 0).all())  # zeros behind the end, as the published code pads
    assert not bool((padded[0, :frames] == 0).all())


def test_normalisation_comes_behind_the_padding() -> None:
    plain, normal = LogMel()(wave(1.0)), LogMel(mean=-5.081, std=4.4849)(wave(1.0))
    close(normal, (plain + 5.081) / (2 * 4.4849), 1e-6)


def test_a_rate_belongs_to_the_front_end() -> None:
    assert LogMel(rate=32_000).describe() != LogMel().describe()
    assert (LogMel(rate=32_000)(wave(1.0, 32_000))[0, :98] - LogMel()(wave(1.0))[0, :98]).abs().max() > 0.5
