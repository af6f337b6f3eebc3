"""The shared audio sets as folders that pt-audio reads: PART/CLASS/CLIP.

Three sets: spoken_digits (test: other recordings of the same speakers), speech_commands_ar (test: other speakers) and esc10 (test: fold 4,
validation: fold 3). A validation part that a set lacks is split off by pt-audio.
"""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path

import numpy as np
import soundfile

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETS = ("spoken_digits", "speech_commands_ar", "esc10")


def write(name: str, source: Path, out: Path) -> Path:
    """Write a set below `out` (once) and return its folder."""
    folder = out / name
    if not folder.is_dir():
        {"spoken_digits": _digits, "speech_commands_ar": _commands, "esc10": _esc10}[name](source / name, folder)
    return folder


def _clip(folder: Path, part: str, label: str, name: str, wave: np.ndarray, rate: int) -> None:
    path = folder / part / label / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


def _digits(source: Path, folder: Path) -> None:
    for part in ("train", "test"):
        with np.load(source / f"{part}.npz", allow_pickle=False) as arrays:
            audio, ends, rate = arrays["audio"], arrays["ptr"], int(arrays["sample_rate"])
            for number, digit in enumerate(arrays["y"]):
                speaker = arrays["speakers"][arrays["speaker"][number]]
                name = f"{speaker}-{arrays['index'][number]}"
                _clip(folder, part, DIGITS[digit], name, audio[ends[number] : ends[number + 1]], rate)


def _commands(source: Path, folder: Path) -> None:
    for part in ("train", "val", "test"):
        with np.load(source / f"{part}.npz", allow_pickle=False) as arrays:
            for number, word in enumerate(arrays["y"]):
                label = str(arrays["words"][word])
                _clip(folder, part, label, f"{number:04d}", arrays["x"][number], int(arrays["sample_rate"]))


def _esc10(source: Path, folder: Path) -> None:
    parts = {"1": "train", "2": "train", "3": "val", "4": "test"}
    with (source / "meta.csv").open() as lines, tarfile.open(source / "audio.tar") as sounds:
        for row in csv.DictReader(lines):
            path = folder / parts[row["fold"]] / row["label"] / Path(row["file"]).name
            path.parent.mkdir(parents=True, exist_ok=True)
            member = sounds.extractfile(row["file"])
            assert member is not None
            path.write_bytes(member.read())
