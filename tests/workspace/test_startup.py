"""Commands that only print do not wait for torch or other heavy libraries: that is what keeps them below a second."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "timm", "numpy", "PIL", "accelerate", "pandas", "matplotlib", "sklearn", "torchmetrics", "datasets"}
PROGRAM = """
import sys
from pt_vision.cli import main
sys.argv = ["pt-vision", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["methods", "--json"], ["fit", "--help"]], ids=" ".join)
def test_printing_commands_import_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize("module", ["pt_core", "pt_vision"])
def test_the_packages_themselves_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.partition(".")[0] for name in done.stdout.split()}
