"""Nothing is imported before it is needed: commands that only print do without torch and answer in less than a second, and a
prediction or a fit does without what only other commands, metrics or reports use. How long it takes is measured in
benchmarks/startup.py, not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.startup import ALONE, CASES, make_inputs

HEAVY = {"torch", "timm", "numpy", "PIL", "accelerate", "pandas", "matplotlib", "sklearn", "torchmetrics", "datasets"}
LATE = {
    *("torchmetrics", "sklearn", "pandas", "pyarrow", "matplotlib", "tensorboard", "pydantic", "peft", "datasets"),
    # timm and transformers import these themselves; the others do without.
    *("accelerate", "scipy", "sympy", "triton", "torch._dynamo", "torch.onnx", "torch.utils.flop_counter"),
    *("transformers", "timm", "torchvision", "torch_geometric", "trimesh", "networkx", "jinja2", "filelock"),
}
"""Not for a prediction, unless what the built-in network comes from imports it."""
WRITING = {"matplotlib", "pyarrow", "jinja2", "filelock"}
"""What a fit needs for its folder and its report."""
READING = {"language": {"pandas"}, "graph": {"pandas", "sklearn", "scipy"}}
"""What these fits need for a table of data, and for ROC-AUC."""
PROGRAM = """
import importlib, sys
package, *sys.argv = sys.argv[1:]
try:
    importlib.import_module(f"pt_{package}.cli").main()
finally:
    print("modules:", *sys.modules, file=sys.stderr)
"""
IMPORT = "{statement}\nimport sys; print('modules:', *sys.modules, file=sys.stderr)"


def loaded(folder: Path | None, code: str, *arguments: str) -> set[str]:
    """The modules in a process behind its last line."""
    environment = {**os.environ, **ALONE, **({"PT_CACHE": str(folder / "cache")} if folder else {})}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.rpartition("modules:")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["methods", "--json"], ["fit", "--help"]], ids=" ".join)
def test_printing_commands_import_nothing_heavy(arguments: list[str]) -> None:
    modules = loaded(None, PROGRAM, "vision", "pt-vision", *arguments)
    assert "click" in modules
    assert not HEAVY & modules


@pytest.mark.parametrize("module", ["pt_core", "pt_vision"])
def test_the_packages_themselves_import_nothing_heavy(module: str) -> None:
    assert not HEAVY & loaded(None, IMPORT.format(statement=f"import {module}"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


PACKAGES = [name if name == "timeseries" else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", PACKAGES)
def test_fit_and_predict_import_what_they_use(name: str, place: Path) -> None:
    case = CASES[name]
    upstream = loaded(place, IMPORT.format(statement=case.upstream))
    fit = loaded(place, PROGRAM, name, f"pt-{name}", "fit", *case.fit, "--steps", "1", "--out", name)
    predict = loaded(place, PROGRAM, name, f"pt-{name}", "predict", name, *case.predict)
    assert sorted(LATE & predict - upstream) == []
    assert sorted(LATE & fit - upstream - WRITING - READING.get(name, set())) == []
