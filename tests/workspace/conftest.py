"""A place with photos, a tiny backbone, and a few finished runs, made once per module by the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import good
from tests.vision.pictures import make_folder

TINY = ("--img-size", "16", "--patch-size", "4", "--embed-dim", "16", "--depth", "2", "--num-heads", "2")
SHORT = ("--steps", "6", "--batch-size", "6", "--eval-every", "3", "--test-fraction", "0.25")
BACKBONE = ("--backbone", "file:tiny.safetensors")
VPT = ("fit", "vpt", "--data", "photos", *BACKBONE, *SHORT, "--prompt-length", "2", "--lr", "20")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: photos/, tiny.safetensors, and the runs a, b (vpt) and c (linear)."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PT_CACHE", str(folder / "cache"))
        make_folder(folder / "photos", {"": {"cat": 8, "dog": 8, "owl": 8}})
        good("pretrain", "--data", "photos", "--out", "tiny.safetensors", "--steps", "2", "--batch-size", "8", *TINY)
        good(*VPT, "--out", "a")
        good(*VPT, "--seed", "1", "--out", "b")
        good("fit", "linear", "--data", "photos", *BACKBONE, *SHORT, "--out", "c")
        yield folder
