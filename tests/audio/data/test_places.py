"""Names of data are judged without reading, in the loaders' words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pt_audio.data.load import load_audio
from pt_audio.modality import Audio
from pt_audio.options import DataOptions
from pt_core.errors import DataError


def test_what_can_be_read_has_no_problem(tmp_path: Path) -> None:
    for name in ("events.csv", "train.jsonl"):
        (tmp_path / name).write_text("nothing that could be read")
    for spec in ("builtin:sounds", str(tmp_path), f"{tmp_path}/events.csv", f"{tmp_path}/train.jsonl"):
        assert Audio().data_problem(spec) is None, spec


def test_problems_are_the_loaders_own(tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_text("x")
    for spec in ("builtin:sound", "nowhere", "nowhere.csv", "nowhere.jsonl", f"{tmp_path}/clip.wav"):
        with pytest.raises(DataError) as caught:
            load_audio(spec, DataOptions(), 0)
        assert Audio().data_problem(spec) == str(caught.value)


def test_judging_names_waits_for_no_library() -> None:
    code = (
        "import sys; from pt_audio.modality import Audio; one = Audio()\n"
        "print(one.data_problem('no.csv'), one.backbone_problem('local:no', 'lm'))\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'soundfile'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
