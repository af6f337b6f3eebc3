"""A file that was cut off is refused by its own header, whatever its format; a whole one never is."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pt_audio.data.sound import open_file
from pt_core.errors import DataError

RATE = 16_000
TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE) * np.linspace(0.2, 1, 3 * RATE)).astype(np.float32)
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav": ("wav", {}),
    "wav float": ("wav", {"subtype": "FLOAT"}),
    "wav adpcm": ("wav", {"subtype": "IMA_ADPCM"}),
    "wavex": ("wav", {"format": "WAVEX"}),
    "rf64": ("wav", {"format": "RF64"}),
    "rifx": ("wav", {"endian": "BIG", "format": "WAV"}),
    "aiff": ("aiff", {}),
    "au": ("au", {}),
    "au little": ("au", {"endian": "LITTLE"}),
    "flac": ("flac", {}),
    "ogg": ("ogg", {}),
    "opus": ("opus", {"format": "OGG", "subtype": "OPUS"}),
    "mp3 constant": ("mp3", {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
    "mp3 variable": ("mp3", {"bitrate_mode": "VARIABLE", "compression_level": 0.5}),
}


def write(folder: Path, kind: str, rate: int = RATE) -> Path:
    suffix, options = FORMATS[kind]
    path = folder / f"tone.{suffix}"
    soundfile.write(path, TONE, rate, **options)
    return path


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("kind", FORMATS)
def test_whole_files_are_read_to_their_end(kind: str, rate: int, tmp_path: Path) -> None:
    if kind == "opus":
        rate = 48_000 if rate > 22_050 else 8_000
    clip = open_file(write(tmp_path, kind, rate))
    assert len(clip.read(rate)) == clip.samples
    assert abs(clip.samples - len(TONE)) <= 2048  # ADPCM fills its last block


@pytest.mark.parametrize("share", [0.33, 0.95, 0.999])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_was_cut_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"tone.*(truncated|cannot be read as audio)"):
        open_file(path).read(RATE)


def test_the_message_has_both_lengths(tmp_path: Path) -> None:
    path = write(tmp_path, "wav")
    path.write_bytes(path.read_bytes()[:32_044])
    with pytest.raises(DataError, match="tone.wav is truncated: its header promises 96,044 bytes, it has 32,044"):
        open_file(path)


def test_what_stands_behind_the_samples_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path, "wav")
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert open_file(path).samples == len(TONE)
    path = write(tmp_path, "mp3 variable")
    tagged = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + path.read_bytes() + b"TAG" + bytes(125)
    path.write_bytes(tagged)
    assert len(open_file(path).read(RATE)) == len(TONE)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_streamed_wav_does_not_know_its_length(size: int, tmp_path: Path) -> None:
    path = write(tmp_path, "wav")
    content = bytearray(path.read_bytes())
    place = content.find(b"data")
    content[place + 4 : place + 8] = struct.pack("<I", size)
    path.write_bytes(content)
    assert len(open_file(path).read(RATE)) == len(TONE)


def headerless(folder: Path, kind: str) -> tuple[Path, bytes]:
    """An MP3 without its first frame, which holds the Xing header."""
    path = write(folder, kind)
    content = path.read_bytes()
    return path, content[content.find(content[:2], 4) :]


def test_an_mp3_without_a_header_is_counted_frame_by_frame(tmp_path: Path) -> None:
    path, frames = headerless(tmp_path, "mp3 constant")
    path.write_bytes(frames)
    assert len(open_file(path).read(RATE)) >= len(TONE)
    path.write_bytes(frames[:-100])
    with pytest.raises(DataError, match="its last frame has .* bytes"):
        open_file(path)
    path, frames = headerless(tmp_path, "mp3 variable")
    path.write_bytes(frames)
    assert soundfile.info(path).frames < len(TONE) / 2  # a guess from the first frame, and as much would be read
    with pytest.raises(DataError, match=r"no header that says so, of which only [\d,]+ would be read; convert it"):
        open_file(path)


def test_an_ogg_stream_ends_with_its_last_page(tmp_path: Path) -> None:
    path = write(tmp_path, "opus")
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"OggS")])
    with pytest.raises(DataError, match="not marked as the end of the stream|cannot be read|no samples"):
        open_file(path)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="last Ogg page is incomplete|cannot be read|no samples"):
        open_file(path)
