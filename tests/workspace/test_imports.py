"""Who may import whom, and how large a file may be: rules of docs/architecture.md, checked on the sources.

Rooms and their directions are contracts of import-linter (`uv run lint-imports`); here is what it does not look at: libraries, circles of
single files, and that the contracts themselves can fail.
"""

from __future__ import annotations

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
SOURCES = sorted(PACKAGES.glob("*/src/**/*.py"))
CORE = PACKAGES / "pt-core" / "src" / "pt_core"
MODALITIES = {path.parent.name for path in PACKAGES.glob("*/src/*/__init__.py")} - {"pt_core"}
MODALITY_LIBRARIES = {
    *("timm", "torchvision", "PIL", "open_clip", "diffusers", "cv2", "skimage"),
    *("transformers", "tokenizers", "peft", "sentencepiece", "datasets", "huggingface_hub"),
    *("torch_geometric", "torch_scatter", "dgl", "ogb", "networkx"),
    *("torchaudio", "librosa", "soundfile"),
    *("open3d", "trimesh", "gymnasium"),
}
LIMIT = 450


@cache
def imported(path: Path) -> set[tuple[str, int]]:
    """(dotted module, line) of every import statement, wherever it stands; relative ones made absolute."""
    found = set()
    package = path.relative_to(next(p for p in path.parents if p.name == "src")).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {(module, node.lineno), *((f"{module}.{alias.name}", node.lineno) for alias in node.names)}
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__", "require")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add((str(node.args[0].value), node.lineno))
    return found


def offences(paths: list[Path], banned: object) -> list[str]:
    return [
        f"{path.relative_to(PACKAGES)}:{line} imports {module}"
        for path in paths
        for module, line in sorted(imported(path))
        if banned(path, module)  # type: ignore[operator]
    ]


def test_the_rules_see_the_sources() -> None:
    assert "pt_vision" in MODALITIES
    assert len(SOURCES) > 50
    assert ("pt_core.errors", 1) in {(module, 1) for module, _ in imported(CORE / "artifact.py")}


def test_relative_and_dynamic_imports_are_seen(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "pt_x" / "methods"
    folder.mkdir(parents=True)
    (folder / "m.py").write_text(
        "from ..other import a\nimport_module('timm.models')\ndef f():\n    import PIL.Image\n"
    )
    assert {module for module, _ in imported(folder / "m.py")} == {
        "pt_x.other",
        "pt_x.other.a",
        "timm.models",
        "PIL.Image",
    }


def test_a_package_is_called_like_its_folder_and_depends_on_core_only() -> None:
    """For every package there is, a half-built one included: its name, its module, and none of the other packages among its needs."""
    for path in sorted(PACKAGES.glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        assert project["name"] == path.parent.name
        assert (path.parent / "src" / path.parent.name.replace("-", "_") / "__init__.py").is_file()
        needed = [
            *project["dependencies"],
            *(line for extra in project.get("optional-dependencies", {}).values() for line in extra),
        ]
        names = {re.match(r"[\w.-]+", line)[0].replace("_", "-") for line in needed}  # type: ignore[index]
        ours = {name.replace("_", "-") for name in MODALITIES}
        assert not names & (ours - {project["name"]}), path.parent.name
        if path.parent.name != "pt-core":
            core = [line for line in project["dependencies"] if line.startswith("pt-core")]
            assert len(core) == 1, path.parent.name
            assert re.search(r">=\d+\.\d+,<\d+\.\d+", core[0]), core[0]
        assert project["requires-python"] == ">=3.11"
        assert project["license"] == "Apache-2.0"


def test_no_modality_package_imports_another() -> None:
    def foreign(path: Path, module: str) -> bool:
        own = path.relative_to(PACKAGES).parts[2]
        top = module.partition(".")[0]
        return top in MODALITIES and top != own

    assert offences(SOURCES, foreign) == []


def test_core_imports_no_modality_library_outside_its_bridges() -> None:
    paths = [path for path in CORE.rglob("*.py") if CORE / "bridges" not in path.parents]
    assert offences(paths, lambda _, module: module.partition(".")[0] in MODALITY_LIBRARIES | MODALITIES) == []


def test_contract_files_do_not_import_the_runtime() -> None:
    paths = [*CORE.glob("*.py"), *(CORE / "kernels").rglob("*.py")]
    assert offences(paths, lambda _, module: f"{module}.".startswith(("pt_core.run.", "pt_core.testing."))) == []


def test_no_method_imports_another_method() -> None:
    """What two methods share lies in the package's own modules."""

    def other_method(path: Path, module: str) -> bool:
        return "methods" in path.parts and ".methods." in module

    assert offences(SOURCES, other_method) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_source_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LIMIT


def test_half_of_the_source_files_have_fewer_than_120_lines() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES)
    assert lengths[len(lengths) // 2] < 120


def modules() -> dict[str, Path]:
    names = {}
    for path in SOURCES:
        parts = path.relative_to(next(p for p in path.parents if p.name == "src")).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def test_no_two_files_import_each_other_by_whatever_way() -> None:
    known = modules()
    graph = {
        name: {module for module, _ in imported(path) if module in known and module != name}
        for name, path in known.items()
    }
    # `from package import module` names both; only the longest known name is what is meant.
    graph = {name: {m for m in found if not any(o.startswith(f"{m}.") for o in found)} for name, found in graph.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which lists the circle
    assert order.index("pt_core.errors") < order.index("pt_core.method") < order.index("pt_core.run.command.cli")
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({**graph, "pt_core.errors": {"pt_core.run.command.cli"}}).static_order())


def test_the_rooms_are_under_contract() -> None:
    """Every package has its layers, exhaustive, so that a new room has to be placed."""
    settings = tomllib.loads((PACKAGES.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert set(settings["root_packages"]) == {"pt_core", *MODALITIES}
    layered = {c for contract in settings["contracts"] if contract.get("exhaustive") for c in contract["containers"]}
    assert layered == {"pt_core", "pt_core.run", *MODALITIES}
    assert {contract["type"] for contract in settings["contracts"]} == {"layers", "independence", "acyclic_siblings"}


def test_an_import_against_the_direction_breaks_a_contract(tmp_path: Path) -> None:
    """The contracts see what they are for: one upward import, inside a function, in a copy of pt-core."""
    source = tmp_path / "pt_core"
    shutil.copytree(CORE, source, ignore=shutil.ignore_patterns("__pycache__"))
    with (source / "run" / "declare" / "numbers.py").open("a") as file:
        file.write("\n\ndef up() -> None:\n    from pt_core.run.use import budget  # noqa: F401\n")
    text = (PACKAGES.parent / "pyproject.toml").read_text(encoding="utf-8")
    contracts = [
        part for part in text.split("[[tool.importlinter.contracts]]") if 'containers = ["pt_core.run"]' in part
    ]
    config = '[tool.importlinter]\nroot_packages = ["pt_core"]\n[[tool.importlinter.contracts]]' + contracts[0]
    (tmp_path / "pyproject.toml").write_text(config)
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", "pyproject.toml", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "pt_core.run.declare is not allowed to import pt_core.run.use" in done.stdout


BLOCKED = """
import sys

ALLOWED = {"torch", "numpy", "safetensors", "lazy_loader", "pt_core", "packaging"}
KNOWN = ALLOWED | sys.stdlib_module_names

import torch, numpy, safetensors.torch  # with whatever they need themselves
before = set(sys.modules)

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in KNOWN and top not in {m.partition(".")[0] for m in before}:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
for name in ("click", "pydantic", "accelerate", "yaml", "annotated_types"):
    sys.modules[name] = None
import pt_core
for name in pt_core.__all__:
    getattr(pt_core, name)
import pt_core.artifact, pt_core.sealed, pt_core.kernels.flops
new = {m.partition(".")[0] for m, module in sys.modules.items() if module is not None and m not in before}
assert new <= KNOWN, sorted(new - KNOWN)
print("fine", len(pt_core.__all__))
"""


def test_the_contracts_need_torch_numpy_and_safetensors_only() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("fine"), done.stderr[-2000:]


def test_every_package_has_its_licence_readme_and_typing_marker() -> None:
    for package in PACKAGES.iterdir():
        if (package / "pyproject.toml").is_file():
            for name in ("LICENSE", "README.md", f"src/{package.name.replace('-', '_')}/py.typed"):
                assert (package / name).is_file(), f"{package.name} lacks {name}"
