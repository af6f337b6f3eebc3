"""What a user installs: wheels built from the packages, in an environment that knows nothing of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in (REPOSITORY / "packages").glob("*/pyproject.toml"))
UV = shutil.which("uv")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(UV is None, reason="uv is not installed; it builds the wheels"),
]


def run(*command: str | Path, cwd: Path) -> str:
    """In a bare environment: nothing of this checkout is on the path."""
    keep = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "PT_", "UV_PROJECT"))
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=keep, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution -> wheel, of all packages of the workspace."""
    out = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--all-packages", "--wheel", "--out-dir", out, cwd=REPOSITORY)
    return {path.name.partition("-")[0].replace("_", "-"): path for path in out.glob("*.whl")}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Path:
    """A fresh environment with pt-vision's wheel and pt-core's, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("fresh")
    run(UV, "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(
        UV,
        "pip",
        "install",
        "--python",
        python,
        f"pt-core[run] @ file://{wheels['pt-core']}",
        wheels["pt-vision"],
        cwd=folder,
    )
    return folder


def test_the_wheels_hold_what_the_packages_need(wheels: dict[str, Path]) -> None:
    assert set(wheels) == {package.name for package in PACKAGES}
    for package in PACKAGES:
        module = package.name.replace("-", "_")
        with zipfile.ZipFile(wheels[package.name]) as wheel:
            names = set(wheel.namelist())
            meta = next(name for name in names if name.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(wheel.read(meta).decode())
        assert f"{module}/py.typed" in names
        assert any(name.endswith("licenses/LICENSE") for name in names), package.name
        assert metadata["License-Expression"] == "Apache-2.0"
        assert metadata["Requires-Python"] == ">=3.11"
        assert len(metadata.get_payload()) > 100, f"{package.name}: the README is the page of the package"
        source = package / "src" / module
        for path in source.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(package / "src")) in names
        assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]
        if module != "pt_core":
            needed = [line.split(";")[0] for line in metadata.get_all("Requires-Dist")]
            assert any(line.startswith("pt-core") for line in needed)
            others = {p.name for p in PACKAGES} - {package.name, "pt-core"}
            assert not [line for line in needed if line.partition("[")[0].partition(">")[0].strip() in others]


def test_wheels_of_pt_vision_carry_backbone_recipes_and_templates(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["pt-vision"]) as wheel:
        names = set(wheel.namelist())
    for name in ("assets/vit_glyphs.safetensors", "assets/vit_glyphs.json", "recipes/dvpt-medical.yaml", "py.typed"):
        assert f"pt_vision/{name}" in names
    with zipfile.ZipFile(wheels["pt-core"]) as wheel:
        names = set(wheel.namelist())
    for name in ("report.html.j2", "compare.html.j2", "style.css", "sort.js"):
        assert f"pt_core/run/report/{name}" in names


def test_an_installed_pt_vision_works(environment: Path) -> None:
    script = environment / "venv" / "bin" / "pt-vision"
    assert "dvpt" in run(script, "methods", cwd=environment)
    code = "import pt_core, pt_vision; print(pt_core.__file__, pt_vision.__file__)"
    where = run(environment / "venv" / "bin" / "python", "-c", code, cwd=environment)
    assert str(REPOSITORY) not in where
    said = run(
        script,
        "fit",
        "vpt",
        "--data",
        "builtin:digits",
        "--shots",
        "2",
        "--steps",
        "2",
        "--out",
        "run",
        cwd=environment,
    )
    assert "next: pt-vision predict run IMAGE..." in said
    assert (environment / "run" / "report.html").is_file()
    assert "finished" in run(script, "info", "run", cwd=environment)


def test_an_installed_pt_vision_pulls_in_nothing_of_the_other_modalities(environment: Path) -> None:
    listed = run(UV, "pip", "list", "--python", environment / "venv" / "bin" / "python", cwd=environment)
    names = {line.split()[0].lower() for line in listed.splitlines() if line.strip()}
    assert {"pt-core", "pt-vision", "timm", "torch"} <= names
    assert not names & {"torch-geometric", "transformers", "peft", "torchaudio", "librosa", "pt-graph", "pt-language"}


def test_the_readmes_install_command_works(tmp_path: Path) -> None:
    """`pip install ./packages/pt-core ./packages/pt-vision`, from a copy of the checkout, without what is installed already."""
    assert "pip install ./packages/pt-core ./packages/pt-vision" in (REPOSITORY / "README.md").read_text()
    run("git", "clone", "--quiet", REPOSITORY, tmp_path / "clone", cwd=tmp_path)
    run(UV, "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    clone = tmp_path / "clone"
    shutil.rmtree(clone / ".git")
    run(UV, "pip", "install", "--python", python, "--no-deps", "./packages/pt-core", "./packages/pt-vision", cwd=clone)
    run(UV, "pip", "install", "--python", python, "click>=8.1", "annotated-types", "lazy-loader>=0.4", cwd=clone)
    assert "vpt_pixel" in run(tmp_path / "venv" / "bin" / "pt-vision", "methods", cwd=tmp_path)
