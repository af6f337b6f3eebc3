"""Names of data are judged without reading, in the loaders' words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pt_core.errors import DataError
from pt_language.data.load import load_text
from pt_language.modality import Language
from pt_language.options import DataOptions


def test_what_can_be_read_has_no_problem(tmp_path: Path) -> None:
    (tmp_path / "sst_train.csv").write_text("no table")
    for spec in ("builtin:words", "hub:any/name", str(tmp_path), f"{tmp_path}/sst_train.csv"):
        assert Language().data_problem(spec) is None, spec


def test_problems_are_the_loaders_own(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("x")
    for name in ("empty", "twice"):
        (tmp_path / name).mkdir()
    for name in ("a_train.csv", "b_train.csv"):
        (tmp_path / "twice" / name).write_text("x")
    for spec in (
        "builtin:word",
        "nowhere.csv",
        "timm:x",
        *(f"{tmp_path}/{n}" for n in ("notes.doc", "empty", "twice")),
    ):
        with pytest.raises(DataError) as caught:
            load_text(spec, DataOptions())
        assert Language().data_problem(spec) == str(caught.value)


def test_judging_names_waits_for_no_library() -> None:
    code = (
        "import sys; from pt_language.modality import Language; one = Language()\n"
        "print(one.data_problem('no.csv'), one.backbone_problem('local:no', 'backbone'))\n"
        "print(sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
