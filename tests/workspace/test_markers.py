"""A default run says which tests it leaves out and how to run them; every marker is declared and used."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]


def collect(*arguments: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-p",
        "no:cacheprovider",
        "tests/workspace/test_install.py",
    ]
    return subprocess.run([*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout


def test_the_default_run_says_what_it_leaves_out() -> None:
    said = collect()
    assert re.search(r"\d+ tests left out: without slow, gpu and realdata tests; run them with `pytest -m slow`", said)
    assert "PT_REALDATA=DIR pytest -m realdata" in said
    assert "<Function test_the_wheels" not in said


def test_declared_markers_are_those_of_the_readme() -> None:
    declared = {line.partition(":")[0] for line in SETTINGS["markers"]}
    assert declared == {"slow", "gpu", "realdata", "browser"}
    assert SETTINGS["addopts"].endswith("-m 'not slow and not gpu and not realdata'")
    assert "--strict-markers" in SETTINGS["addopts"]
    packages = {path.name.replace("-", "_") for path in (REPOSITORY / "packages").iterdir() if path.is_dir()}
    assert {f"error:::{name}" for name in packages} <= set(SETTINGS["filterwarnings"])
