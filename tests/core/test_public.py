"""The public names of pt-core, its version in one place, and the examples in its docstrings."""

import doctest
import importlib
import tomllib
from importlib.resources import files
from pathlib import Path

import pt_core
import pt_core.kernels
import pt_core.testing
import pytest

NAMES = """__version__ Add Backbone Batch Claim Dataset Edit Edits Evaluator Features Fingerprint Insert KeyValue Layout LoweredEdits
Method Optimiser PromptBank PromptTokens Replace Stage StepOutput Stream Task UserError prompt_attention reference_kernels"""
WITH_EXAMPLES = (
    "pt_core.prompts",
    "pt_core.backbone",
    "pt_core.kernels.prompt_attention",
    "pt_core.data",
    "pt_core.errors",
)
SOURCE = Path(pt_core.__file__).parent


def test_public_names_are_these():
    assert pt_core.__all__ == NAMES.split()


def test_every_public_name_is_there_and_is_loaded_on_first_use():
    for name in pt_core.__all__:
        assert getattr(pt_core, name) is not None
    for package in (pt_core.kernels, pt_core.testing):
        for name in package.__all__:
            assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = pt_core.nothing


def test_types_are_shipped_and_the_version_is_one():
    assert (files("pt_core") / "py.typed").is_file()
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
    assert project["version"] == pt_core.__version__
    assert f"## {pt_core.__version__}" in (SOURCE.parents[1] / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name):
    # The module `prompt_attention` is hidden behind the function of that name.
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 0


def test_example_of_the_readme_runs():
    text = (SOURCE.parents[1] / "README.md").read_text()
    result = doctest.testfile(str(SOURCE.parents[1] / "README.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    assert result.attempted >= 5
    assert ">>>" in text
