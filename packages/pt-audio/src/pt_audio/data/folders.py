"""Clips in folders that are named after their classes."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import DataError

from pt_audio.data.clips import Clips
from pt_audio.data.places import PARTS
from pt_audio.data.sound import SUFFIXES, open_file
from pt_audio.data.synth import Event
from pt_audio.options import Stereo

LISTS = ("validation_list.txt", "testing_list.txt")
"""How Speech Commands names its official parts."""


def folder_clips(folder: Path, stereo: Stereo) -> dict[str, Clips]:
    """Part -> clips of a folder whose subfolders are classes, or train/val/test with classes below them.

    Raises:
        DataError: no audio file below a class folder, or lists of parts that are not read.
    """
    parts = {PARTS[sub.name]: sub for sub in sorted(folder.iterdir()) if sub.is_dir() and sub.name in PARTS}
    if "train" not in parts:
        lists = [name for name in LISTS if (folder / name).is_file()]
        if lists:
            raise DataError(
                f"{folder} holds official lists of its parts ({', '.join(lists)}), which a random split would mix: move the clips that "
                "they name into FOLDER/val/CLASS and FOLDER/test/CLASS, the others into FOLDER/train/CLASS, or remove the lists"
            )
        parts = {"train": folder}
    return {role: _class_folders(sub, stereo) for role, sub in parts.items()}


def _class_folders(folder: Path, stereo: Stereo) -> Clips:
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{folder} has no audio files in class folders ({', '.join(SUFFIXES)}): expected FOLDER/CLASS/FILE"
        )
    sources = [open_file(file, stereo) for file in files]
    labels = [file.parent.name.replace("_", " ").lower() for file in files]
    return sources, [(Event(label, 0.0, s.seconds),) for label, s in zip(labels, sources, strict=True)], False
