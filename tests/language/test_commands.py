"""import-peft, export --format, inspect and serve as a user types them, over a local model folder."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.saving import card_of, save_artifact
from pt_language.backbones import load_backbone
from pt_language.modality import Language
from safetensors.torch import load_file

from tests.command import Outcome, typed
from tests.language import tiny


def pt(*arguments: object) -> Outcome:
    """`pt-language ARGUMENTS`."""
    return typed(Language, *arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    on = tiny.backbone()
    on.module.save_pretrained(folder)
    on.tokenizer.save_pretrained(folder)
    return f"local:{folder}"


@pytest.fixture(scope="module")
def runs(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of three methods over the model."""
    folder, on = tmp_path_factory.mktemp("runs"), load_backbone(model)
    for name, options in (("prompt_tuning", {}), ("prefix", {}), ("iapt", {"bottleneck": 4})):
        method = tiny.tuned(name, on, **options)
        save_artifact(folder / name, method, card_of(method, f"pt-language/{name}"))
    return folder


def test_peft_folder_becomes_a_run_and_comes_back(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made: Any = peft.get_peft_model(
        tiny.network("llama"), peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    made.save_pretrained(tmp_path / "theirs")
    status, out, err = pt("import-peft", tmp_path / "theirs", "--backbone", model, "--out", tmp_path / "run")
    assert status == 0
    assert "it is read as prompt_tuning, the same function" in err
    assert "next: pt-language predict" in out
    assert read_artifact(tmp_path / "run").method == "pt-language/prompt_tuning"
    status, out, _ = pt("predict", tmp_path / "run", "a text", "--json")
    assert (status, "predicted" in json.loads(out)) == (0, True)
    assert pt("export", tmp_path / "run", "--format", "peft", "--out", tmp_path / "back")[0] == 0
    weights = [
        load_file(tmp_path / name / "adapter_model.safetensors")["prompt_embeddings"] for name in ("theirs", "back")
    ]
    assert torch.equal(*weights)
    status, _, err = pt("import-peft", tmp_path / "theirs", "--backbone", model, "--out", tmp_path / "run")
    assert status == 2
    assert str(tmp_path / "run") in err


def test_embeddings_are_exported_where_there_are_some(runs: Path, tmp_path: Path) -> None:
    status, _, err = pt("export", runs / "prompt_tuning", "--format", "embeddings", "--out", tmp_path / "p.safetensors")
    assert status == 0
    assert "followed by the embedded text" in err
    assert load_file(tmp_path / "p.safetensors")["prompt_embeds"].shape == (5, 32)
    status, _, err = pt("export", runs / "iapt", "--format", "embeddings", "--out", tmp_path / "q.safetensors")
    assert (status, err.count("error: ")) == (2, 1)
    assert "IAPT is no list of input vectors" in err
    assert pt("export", runs / "iapt", "--format", "peft", "--out", tmp_path / "q")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_wrong_folders_are_told_before_the_backbone_is_read(tmp_path: Path) -> None:
    for folder, message in (
        (tmp_path, "has no adapter_config.json"),
        (tmp_path / "no.npy", "cannot be read as an array"),
    ):
        status, _, err = pt("import-peft", folder, "--backbone", "local:/nowhere", "--out", tmp_path / "run")
        assert (status, err.count("error: ")) == (2, 1)
        assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
def test_inspect_prints_rows_and_attention(name: str, runs: Path) -> None:
    status, out, _ = pt("inspect", runs / name)
    assert status == 0
    assert "attention to the prompt" in out
    found = json.loads(pt("inspect", runs / name, "--json")[1])
    assert len(found["attention"]) == 3
    assert all(0 < mass < 1 for mass in found["attention"])
    assert len(found["rows"]) == (5 if name == "prompt_tuning" else 0)
    assert found["tensors"][0]["tensor"] == "prompt"


def test_serve_refuses_what_it_cannot_do(runs: Path, model: str, tmp_path: Path) -> None:
    for arguments, message in (
        ((), "give runs to serve, or --backbone"),
        ((tmp_path,), "holds no tuned artifact"),
        ((runs / "prefix", f"prefix={runs / 'iapt'}"), "two runs are called 'prefix'"),
        ((runs / "prefix", "--prompts-root", tmp_path / "none"), "is not a folder"),
    ):
        status, _, err = pt("serve", *arguments)
        assert (status, err.count("error: ")) == (2, 1), err
        assert message in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, _, err = pt("serve", runs / "prefix", "--device", "cpu", "--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "cannot listen on 127.0.0.1:" in err


def test_all_mistakes_of_a_command_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked up and paths looked for before anything is read."""
    monkeypatch.chdir(tmp_path)
    wrong = ("--data", "nowhere.csv", "--data", "val=builtin:wrods", "--backbone", "builtin:lm_dosc")
    status, _, err = pt("fit", "prompt_tuning", *wrong, "--recipe", "papers", "--promt-length", "3", "--out", "new")
    assert status == 2
    for message in (
        "nowhere.csv does not exist; give a file",
        "no built-in data 'wrods' (did you mean 'words'?)",
        "no built-in backbone 'lm_dosc' (did you mean 'lm_docs'?)",
        "no recipe 'papers'",
        "unknown option '--promt-length' (did you mean '--prompt-length'?)",
    ):
        assert f"error: {message}" in err
    assert err.count("error: ") == 5
    assert not list(tmp_path.iterdir())


def test_help_of_every_command() -> None:
    for command, text in (
        ("serve", "Serve tuned prompts over HTTP"),
        ("import-peft", "PEFT folder"),
        ("inspect", "Nearest tokens"),
    ):
        status, out, _ = pt(command, "--help")
        assert (status, text in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "tuned", "where"),
    [
        (("prompt_tuning", "--prompt-length", "7"), 7 * 32, "7 prompt tokens at input"),
        (("prefix", "--prompt-length", "3"), 3 * 2 * 3 * 16, "3 prompt tokens at each of 3 sites"),
        (("iapt", "--bottleneck", "4"), 3 * (2 * 32 * 4 + 16 + 12), "4 prompt tokens at each of 3 sites"),
    ],
)
def test_costs_are_counted_without_values(arguments: tuple[str, ...], tuned: int, where: str, model: str) -> None:
    status, out, err = pt("budget", *arguments, "--backbone", model)
    assert (status, err) == (0, "")
    assert f"{tuned:,} (" in out
    assert where in out
    status, generated, err = pt("budget", *arguments, "--backbone", model, "--task", "generation")
    assert (status, err) == (0, "")
    assert f"{tuned:,} (" in generated
    status, _, err = pt("budget", "cpt", "--backbone", model)
    assert (status, "depends on the examples it puts in context" in err) == (2, True)
