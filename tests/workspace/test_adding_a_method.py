"""docs/adding-a-method.md holds a complete method: its code, as printed, runs from a folder of its own and touches no other file."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pt_core.errors import UserError
from pt_core.run.train import trainer
from pt_core.testing import CHECKS, check_method
from pt_vision import load
from pt_vision.modality import Vision
from safetensors.torch import load_file

from tests.command import good, pt_vision, refused
from tests.vision.pictures import make_folder

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "adding-a-method.md"
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
PARAMETERS = 6 * 4 * 160 + 2 * 160 + 1  # on the built-in backbone, two classes


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's method in a folder of its own, and pictures to tune it on; the test runs in that place."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "cosine_prompt.py").write_text(FILES["cosine_prompt.py"], encoding="utf-8")
    monkeypatch.setenv("PT_METHOD_PATH", str(tmp_path / "methods"))
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", {"": {"cat": 6, "dog": 6}})
    return tmp_path


@pytest.fixture
def strategy(toy: Path) -> Path:
    """The page's strategy beside its method, and pictures without labels (in one folder: their labels are hidden)."""
    (toy / "methods" / "self_label.py").write_text(FILES["self_label.py"], encoding="utf-8")
    make_folder(toy / "more", {"": {"any": 5, "other": 4}})
    return toy


def tuned(run: Path) -> bytes:
    return (run / "tuned" / "weights.safetensors").read_bytes()


def test_the_page_prints_one_source_file_and_one_test_file() -> None:
    assert list(FILES) == ["cosine_prompt.py", "test_cosine_prompt.py", "self_label.py"]
    for name in ("cosine_prompt.py", "self_label.py"):
        assert 40 <= len(FILES[name].splitlines()) <= 80
    for name, code in FILES.items():
        assert ast.get_docstring(ast.parse(code)), name


def test_printed_code_is_as_tidy_as_ours(tmp_path: Path) -> None:
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
        for command in (["check", "--ignore=I001"], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", command[0], f"--config={REPOSITORY / 'pyproject.toml'}", *command[1:]]
            done = subprocess.run([*ruff, str(tmp_path / name)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


def test_every_command_knows_the_method(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cosine_prompt" in good("methods").out
    assert "--prompt-length" in good("fit", "cosine_prompt", "--help").out
    options = ("--data", "photos", "--steps", "4", "--batch-size", "4", "--eval-every", "2", "--test-fraction", "0")
    said = good("fit", "cosine_prompt", *options, "--out", "whole")
    assert f"tuned {PARAMETERS:,} parameters" in said.out
    # Stopped behind step 3, then resumed.
    stop = trainer.Trainer._stop_if_signalled

    def stop_at_3(self: trainer.Trainer, loop: trainer.StageLoop | None) -> None:
        self._signal = 15 if loop is not None and loop.step == 3 else None
        stop(self, loop)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_stop_if_signalled", stop_at_3)
        stopped = pt_vision("fit", "cosine_prompt", *options, "--out", "cut")
    assert stopped.status == 143
    assert "resume cut" in stopped.err
    good("resume", "cut")
    assert tuned(toy / "cut") == tuned(toy / "whole")
    # Prediction, the artifact in a fresh object, other commands.
    rows = good("predict", "whole", "photos/cat", "--out", "rows.csv").out.splitlines()
    assert len(rows) == 6
    predictor = load("whole/tuned")
    stored = load_file(toy / "whole" / "tuned" / "weights.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
        "prompts.tokens": (6, 4, 160),
        "prototypes": (2, 160),
        "log_temperature": (),
    }
    assert all(torch.equal(tensor, stored[name]) for name, tensor in predictor.method.state_dict().items())
    assert [f"{r['id']}\t{r['predicted']}\t{r['score']:.4f}" for r in predictor.predict(["photos/cat"])] == rows
    assert "pt-vision/cosine_prompt" in good("info", "whole").out
    assert "report.html" in said.out
    assert (toy / "whole" / "report.html").stat().st_size > 10_000
    good("fit", "cosine_prompt", *options, "--init-from", "whole", "--out", "on")
    refused("temperature", "fit", "cosine_prompt", "--data", "photos", "--temperature", "0", "--out", "no")
    assert not (toy / "no").exists()


def test_an_artifact_of_a_method_that_is_gone_is_refused_by_name(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--steps", "1", "--batch-size", "4", "--test-fraction", "0")
    good("fit", "cosine_prompt", "--data", "photos", *options, "--out", "run")
    monkeypatch.delenv("PT_METHOD_PATH")
    with pytest.raises(UserError, match="no method 'cosine_prompt'.*known: .*dvpt"):
        load("run")


def printed_tests(toy: Path) -> ModuleType:
    path = toy / "test_cosine_prompt.py"
    path.write_text(FILES["test_cosine_prompt.py"], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("printed_tests", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_conforms(toy: Path) -> None:
    tests = printed_tests(toy)
    one = tests.CASES["class"]
    for name in sorted(set(CHECKS) - {"reload"}):  # that one starts a process: below
        (toy / name).mkdir()
        CHECKS[name](one, toy / name)
    tests.test_logits_are_bounded_by_the_inverse_temperature()
    tests.test_backbones_with_stages_are_refused()


@pytest.mark.slow
def test_it_conforms_in_several_processes(toy: Path) -> None:
    check_method(printed_tests(toy).CASES["class"], toy / "checks")


@pytest.mark.slow
def test_the_printed_tests_pass_as_a_file_of_the_suite(toy: Path) -> None:
    printed_tests(toy)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
    done = subprocess.run(
        [*command, "--rootdir", str(REPOSITORY), str(toy / "test_cosine_prompt.py")],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_page_names_things_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:packages|tests|docs)/[\w./-]+)`", text):
        if "cosine_prompt" not in path and "NAME" not in path:
            assert (REPOSITORY / path).exists(), path
    assert "cosine_prompt" not in Vision.registry.infos()


STRATEGY = ("--data", "photos", "--data", "unlabeled=more", "--steps", "3", "--batch-size", "4", "--test-fraction", "0")


def test_the_strategy_tunes_whichever_host_is_named(strategy: Path) -> None:
    hosted = ("--host", "cosine_prompt", "--host.prompt-length", "2", "--rounds", "1", "--threshold", "0.4")
    said = good("fit", "self_label", *STRATEGY, *hosted, "--out", "run")
    assert "self_label tunes" in said.err
    predictor = load("run")
    assert predictor.card["method"] == "pt-vision/cosine_prompt"
    assert predictor.card["made_by"]["method"] == "pt-vision/self_label"
    assert predictor.method.config.prompt_length == 2
    assert {path.name[3:] for path in (strategy / "run" / "stages").iterdir()} == {
        "start",
        "labelled",
        "label-0",
        "tune-0",
    }
    assert "threshold" in good("fit", "self_label", "--help").out
    refused(
        "host: prompt_length='0'",
        "fit",
        "self_label",
        *STRATEGY,
        *hosted[:2],
        "--host.prompt-length",
        "0",
        "--out",
        "no",
    )
    refused("needs data role 'unlabeled'", "fit", "self_label", "--data", "photos", *STRATEGY[4:], "--out", "no")
    assert not (strategy / "no").exists()


def test_the_strategy_labels_what_its_host_is_sure_of(strategy: Path) -> None:
    """Hidden labels play no part: the loss of a batch without target is the one that the equation of the page gives."""
    good(
        "fit", "self_label", *STRATEGY, "--host", "cosine_prompt", "--rounds", "1", "--threshold", "0.5", "--out", "run"
    )
    stage = load_file(strategy / "run" / "stages" / "02-label-0" / "tensors.safetensors")
    method = load("run").method
    state = {name.removeprefix("hosts.host."): t for name, t in stage.items() if name.startswith("hosts.host.")}
    method.load_state_dict(state)
    data = Vision().load_data("more", Vision().data_options(), 0)["train"].bind(method.backbone.preprocessing, "none")
    rows = list(range(len(data)))
    batch = data.collate(rows, [data.sample(row, epoch=None, seed=0) for row in rows])
    with torch.no_grad():
        best, classes = method(batch).softmax(-1).max(-1)
    assert stage["labels"].tolist() == torch.where(best >= 0.5, classes, -1).tolist()
    assert len(stage["labels"]) == 9
