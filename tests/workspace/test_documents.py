"""What the documents say works: Python blocks run, commands and flags exist, links lead somewhere, tables hold what is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from pt_core.run.command.cli import build
from pt_core.run.declare.registry import Registry
from pt_vision.modality import Vision

from tests.command import good
from tests.vision.pictures import make_folder

REPOSITORY = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/adding-a-method.md",
    "docs/results.md",
)
VISION = "packages/pt-vision/README.md"


def text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """Every line of the bash blocks as words, comments left out; recipes' commented commands too."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def vision_calls() -> list[tuple[str, list[str]]]:
    calls = []
    for page in (*PAGES, VISION):
        for words in commands(page):
            if "pt-vision" in words:
                start = len(words) - words[::-1].index("pt-vision")
                calls.append((page, words[start:]))
    return calls


def check(arguments: list[str], group: click.Command) -> None:
    """Walk into the subcommands, then look every flag up."""
    command: click.Command = group
    rest = list(arguments)
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"no command {rest[0]!r}"
        command, rest = found, rest[1:]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("-") and word != "--help":
            assert word.partition("=")[0] in known, f"{' '.join(arguments)}: no flag {word}"


@pytest.fixture(scope="module")
def group() -> click.Group:
    return build(Vision())


def test_the_documents_show_commands() -> None:
    shown = {arguments[0] for _, arguments in vision_calls()}
    assert {"demo", "methods", "fit", "predict", "compare"} <= shown


@pytest.mark.parametrize(
    ("page", "arguments"), vision_calls(), ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None
)
def test_every_command_and_flag_exists(page: str, arguments: list[str], group: click.Group) -> None:
    if not {"cosine_prompt", "self_label"} & set(arguments):  # the examples of the page, which have tests of their own
        check(arguments, group)


def test_commands_inside_sentences_exist_too(group: click.Group) -> None:
    for page in (*PAGES, VISION):
        for inline in re.findall(r"`pt-vision ([a-z]+[^`]*)`", text(page)):
            words = shlex.split(inline)
            check(
                [word for word in words if word.isidentifier() or word.startswith("-") or word in ("METHOD",)] or words,
                group,
            )


def test_recipes_in_the_documents_exist() -> None:
    known = {path.stem for path in (REPOSITORY / "packages/pt-vision/src/pt_vision/recipes").glob("*.yaml")}
    named = set(re.findall(r"`(?:--recipe )?((?:vpt|dvpt|coda)-[a-z-]+)`", text(VISION)))
    assert named == known


def test_python_blocks_of_the_package_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order and in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    code = blocks(VISION, "python")
    assert len(code) == 3
    for block in code:
        exec(compile(block, VISION, "exec"), namespace)
    shown = capsys.readouterr().out
    assert "'predicted'" in shown
    assert "'run': 'other'" in shown
    assert shown.rstrip().endswith("torch.Size([1, 10])")


def test_the_python_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs it names are made first, by the commands above it with a smaller backbone."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, {"photos": {"cat": 4, "dog": 4}})
    for name in ("photos", "other"):
        good("fit", "vpt", "--data", "photos", "--steps", "2", "--batch-size", "4", "--out", f"runs/{name}")
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes((tmp_path / "photos" / "cat" / "0.png").read_bytes())
    (block,) = blocks("README.md", "python")
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("page", [*PAGES, VISION])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text(page)):
        if "://" not in target:
            assert (REPOSITORY / page).parent.joinpath(target).exists(), target


def named(page: str) -> set[str]:
    """Everything in backquotes in the tables of a page."""
    rows = re.findall(r"^\|.*$", text(page), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    "folder", sorted(REPOSITORY.glob("packages/pt-*/src/*/methods")), ids=lambda path: path.parent.name
)
def test_the_methods_tables_hold_every_method(folder: Path) -> None:
    ids = set(Registry(folder.parent.name, folder).infos())
    assert ids
    package = folder.parents[2].name
    for page in ("README.md", f"packages/{package}/README.md"):
        assert ids <= named(page), f"{page} lacks {sorted(ids - named(page))}"


def test_the_contributors_commands_exist() -> None:
    settings = tomllib.loads(text("pyproject.toml"))
    groups = " ".join([*settings["dependency-groups"]["dev"], "lint-imports"])  # import-linter's command
    for words in commands("CONTRIBUTING.md"):
        words = [word for word in words if "=" not in word or word.startswith("-")]
        if words[:2] == ["uv", "run"]:
            assert words[2] in groups, words
            for path in words[3:]:
                if "/" in path and not path.startswith("-"):
                    assert list(REPOSITORY.glob(path)), path
        elif words[0] == "bash":
            assert (REPOSITORY / words[1]).is_file()
        else:
            assert words[0] == "uv"
            assert words[1] in ("sync", "build")


def test_security_says_where_trust_ends() -> None:
    page = text("SECURITY.md").lower()
    for phrase in (
        "pickle",
        "weights_only",
        "trust_remote_code",
        "pt_method_path",
        "hash",
        "whoever made the artifact",
    ):
        assert phrase in page, phrase


def test_no_document_names_a_machine() -> None:
    for page in (*PAGES, VISION, "packages/pt-vision/CHANGELOG.md", "docs/benchmarks.md"):
        assert not re.search(r"/(?:home|root|work|tmp)/", text(page)), page
