"""The built-in model and text, the commands as a user types them, and the report."""

from __future__ import annotations

import json
import sys
from typing import Any

import pt_language
import pytest
import torch
from click.testing import CliRunner
from pt_core.errors import UserError
from pt_language.backbones import ASSETS, load_backbone
from pt_language.corpus import HELD_OUT, module_sentences, sentences, window
from pt_language.methods.cpt import CPT
from pt_language.pretrain import MARKED, PHASES, PretrainConfig, pretrain
from pt_language.sources import MODULES, NOUNS, read_tables

FAST: dict[str, Any] = {"data": "builtin:words", "shots": 2, "limit": 24, "batch_size": 8, "quiet": True}


def test_the_built_in_model_is_small_and_says_how_it_was_made():
    recipe = json.loads((ASSETS / "lm_docs" / "recipe.json").read_text())
    backbone = load_backbone("builtin:lm_docs")
    assert sum(p.numel() for p in backbone.module.parameters()) == recipe["parameters"] <= 2_000_000
    assert backbone.sizes.context >= 1024
    assert sum(path.stat().st_size for path in (ASSETS / "lm_docs").iterdir()) < 5e6
    assert recipe["held_out_modules"] == list(HELD_OUT)
    assert set(MODULES) <= set(HELD_OUT)


def test_it_learns_in_context_on_label_words_and_texts_it_never_saw():
    recipe = json.loads((ASSETS / "lm_docs" / "recipe.json").read_text())["results"]
    assert recipe["held out, same text, 2 classes, 1 shots each"] > 0.8
    backbone: Any = load_backbone("builtin:lm_docs")
    text = "input: {} output: {}"
    shown = [("The turtle moves forward by the distance", "state"), ("Send the message to the mail server", "time")]
    right = 0
    for order in (shown, shown[::-1]):
        for query, label in shown:
            ids = []
            for body, word in order:
                ids += [*backbone.tokenizer(text.format(body, word), add_special_tokens=False)["input_ids"], 0]
            ids += backbone.tokenizer(f"input: {query} output:", add_special_tokens=False)["input_ids"]
            words = [
                backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("state", "time")
            ]
            with torch.no_grad():
                logits = backbone.module(torch.tensor([ids])).logits[0, -1]
            right += ("state", "time")[int(logits[words].argmax())] == label
    assert right >= 3


def test_built_in_text_is_prose_that_no_two_parts_share():
    tables = read_tables("builtin:words")
    texts = [row["text"] for table in tables.values() for row in table.rows]
    assert len(texts) == len(set(texts)) > 100
    assert {row["label"] for row in tables["test"].rows} == set(NOUNS.values())
    assert list(sentences(">>> code()\nresult\n\nThis is a plain sentence of words.")) == [
        "This is a plain sentence of words."
    ]
    assert window("a b c d e f", "e", 3) == "d e f"
    with pytest.raises(UserError, match="no source of the standard library's 'nothere'"):
        module_sentences(("nothere",))


def test_a_run_leaves_everything_that_is_needed_to_predict(tmp_path):
    run = pt_language.fit("prompt_tuning", prompt_length=4, steps=3, out=tmp_path / "run", **FAST)
    assert run.info["parameters"]["tuned"] == 4 * 128
    found = pt_language.load(run).predict(["the turtle turns left", {"text": "a message arrives"}])
    assert {row["predicted"] for row in found} <= set(NOUNS.values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "nearest tokens" in page.lower()
    assert "Attention paid to the prompt" in page


def test_several_prompts_in_one_batch_equal_their_own_runs(tmp_path):
    runs = [
        pt_language.fit("prompt_tuning", prompt_length=4, steps=3, seed=seed, out=tmp_path / f"r{seed}", **FAST)
        for seed in (1, 2)
    ]
    mixed = pt_language.load_many({"a": runs[0].path, "b": runs[1].path})
    assert mixed._together is not None, "label words of one token: one forward for all rows"
    texts, routes = ["the turtle turns", "a long message from the thread", "address"], ["b", "a", "b"]
    found = mixed.predict(texts, routes)
    for text, route, row in zip(texts, routes, found, strict=True):
        alone = pt_language.load(tmp_path / ("r1" if route == "a" else "r2")).predict([text])[0]
        assert (row["predicted"], row["run"]) == (alone["predicted"], route)
        assert row["score"] == pytest.approx(alone["score"], abs=1e-5)


def test_cpt_keeps_its_context_in_the_artifact(tmp_path):
    run = pt_language.fit("cpt", steps=2, out=tmp_path / "run", **{**FAST, "shots": 1})
    predictor = pt_language.load(run)
    method = predictor.method
    assert isinstance(method, CPT)
    assert method.parameter_count() == len(method.ids) * 128
    before = predictor.predict(["the thread waits"])[0]
    assert before["predicted"] in NOUNS.values()


def command(*arguments: str) -> Any:
    from pt_core.run.cli import build
    from pt_language.modality import Language

    return CliRunner().invoke(build(Language()), list(arguments))


def test_inspect_shows_rows_norms_drift_and_attention(tmp_path):
    from pt_language.inspection import inspect_run

    pt_language.fit("prompt_tuning", prompt_length=4, steps=3, out=tmp_path / "run", **FAST)
    found = inspect_run(tmp_path / "run")
    assert len(found["rows"]) == 4
    assert all(row["drift"] > 0 and "nearest tokens (cosine)" in row for row in found["rows"])
    assert len(found["attention"]) == 3
    assert all(0 < mass < 1 for mass in found["attention"])
    assert found["tensors"][0]["drift"] > 0
    told = command("inspect", str(tmp_path / "run")).output
    assert told.count("drift") == 5
    assert "attention to the prompt" in told


def test_drift_is_measured_from_where_the_run_began(tmp_path):
    """A run that hardly moves drifts by nothing, so the rebuilt start is the run's own; a run from another run has no known start."""
    from pt_language.inspection import inspect_run

    still: dict[str, Any] = {**FAST, "steps": 1, "lr": 1e-9}
    for name, options in {
        "prompt_tuning": {"prompt_length": 4},
        "prefix": {"prompt_length": 3},
        "iapt": {"bilevel": False},
    }.items():
        pt_language.fit(name, out=tmp_path / name, **still, **options)
        found = inspect_run(tmp_path / name)
        assert all(row["drift"] < 1e-3 for row in (*found["tensors"], *found["rows"])), name
    pt_language.fit(
        "prompt_tuning", prompt_length=4, init_from=str(tmp_path / "prompt_tuning"), out=tmp_path / "on", **still
    )
    assert not any("drift" in row for row in inspect_run(tmp_path / "on")["rows"])
    run = pt_language.fit("cpt", out=tmp_path / "cpt", **{**FAST, "shots": 1, "steps": 2, "lr": 0.01})
    moved = pt_language.load(run).method.delta.detach().norm(dim=1)
    assert [row["drift"] for row in inspect_run(tmp_path / "cpt")["rows"]] == pytest.approx(moved.tolist(), abs=1e-3)
    assert float(moved.max()) > 0


@pytest.mark.slow
def test_pretraining_writes_a_folder_that_loads(tmp_path):
    config = PretrainConfig(steps=4, tokens_per_step=256)
    card = pretrain(config, tmp_path / "lm", progress=False)
    backbone = load_backbone(f"local:{tmp_path / 'lm'}")
    assert card["recipe"]["steps"] == 4
    assert backbone.tokenizer.eos_token_id == 0
    assert all(len(backbone.tokenizer(word)["input_ids"]) == 1 for word in MARKED)
    assert PHASES[-1].length == 1024


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:lm_dosc", "no built-in backbone 'lm_dosc' .did you mean 'lm_docs'"),
        ("timm:vit", "is of no known kind; use builtin:NAME, hf:ID or local:FOLDER"),
        ("local:/nowhere", "has no config.json"),
        ("local:", "is of no known kind"),
    ],
)
def test_backbones_that_are_not_there_are_named(spec, message):
    with pytest.raises(UserError, match=message):
        load_backbone(spec)


def test_a_folder_without_weights_or_with_a_foreign_network_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(f"local:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(f"local:{tmp_path}")


def test_help_does_not_import_torch():
    import subprocess

    code = (
        "import sys; from pt_language.modality import Language; Language().task_options; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
