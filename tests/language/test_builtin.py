"""The built-in model and text, the commands as a user types them, and the report."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import pt_language
import pytest
import torch
from click.testing import CliRunner
from pt_core.errors import NonFiniteError, UserError
from pt_language.backbones import ASSETS, load_backbone
from pt_language.corpus import HELD_OUT, module_sentences, sentences, window
from pt_language.methods.cpt import CPT
from pt_language.pretrain import (
    LABEL,
    MARKED,
    NEXT,
    Episodes,
    Material,
    PretrainConfig,
    pretrain,
    save,
    train,
    train_tokenizer,
)
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
    """What the recipe says about modules and label words that were held out, with queries that are not among the examples."""
    found = json.loads((ASSETS / "lm_docs" / "recipe.json").read_text())["results"]
    assert found["held out, same text, 2 classes, 1 shots each"] > 0.95
    assert found["held out, shared word, 2 classes, 4 shots each"] > 0.75
    assert found["held out, shared word, 4 classes, 2 shots each"] > 0.5
    assert found["held out, same module, 2 classes, 4 shots each"] > 0.6


def test_examples_in_front_of_a_text_tell_its_class_and_wrong_ones_do_not():
    """Four classes of unseen text, three examples each; with labels moved on by one class, the answers move with them."""
    backbone: Any = load_backbone("builtin:lm_docs")
    names = list(NOUNS.values())
    table = read_tables("builtin:words")
    shown = [row for name in names for row in [r for r in table["train"].rows if r["label"] == name][:3]]
    queries = [row for name in names for row in [r for r in table["test"].rows if r["label"] == name][:8]]
    words = [backbone.tokenizer(f" {name}")["input_ids"][0] for name in names]

    def answers(shift: int) -> list[int]:
        ids: list[int] = []
        for row in (*shown[::3], *shown[1::3], *shown[2::3]):
            label = names[(names.index(row["label"]) + shift) % 4]
            ids += [*backbone.tokenizer(f"input: {row['text']} output: {label}")["input_ids"], 0]
        found = []
        for row in queries:
            query = backbone.tokenizer(f"input: {row['text']} output:")["input_ids"]
            with torch.no_grad():
                found.append(int(backbone.module(torch.tensor([ids + query])).logits[0, -1, words].argmax()))
        return found

    gold = [names.index(row["label"]) for row in queries]
    right = sum(a == g for a, g in zip(answers(0), gold, strict=True))
    moved = sum(a == (g + 1) % 4 for a, g in zip(answers(1), gold, strict=True))
    assert right > 14, "of 32, chance is 8"
    assert moved > 14


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
    from pt_core.run.command.cli import build
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


@pytest.mark.slow
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
def test_pretraining_writes_a_folder_that_loads(tmp_path, monkeypatch):
    """Also on the way; and the circuit it starts from compares and copies before any training."""
    monkeypatch.setattr("pt_language.pretrain.ROUNDS", (10, 40))
    config = PretrainConfig(steps=4, tokens_per_step=256, keep_every=2, lr=1e-6)
    written = []
    monkeypatch.setattr("pt_language.pretrain.save", lambda *a: (written.append(a[2]["steps_done"]), save(*a)))
    card = pretrain(config, tmp_path / "lm")
    assert written == [2, 4]
    assert card["results"]["held out, same text, 2 classes, 1 shots each"] > 0.8
    assert card["results"]["held out, shared word, 4 classes, 2 shots each"] > 0.3
    backbone = load_backbone(f"local:{tmp_path / 'lm'}")
    assert json.loads((tmp_path / "lm" / "recipe.json").read_text())["recipe"]["steps"] == 4
    assert backbone.tokenizer.eos_token_id == 0
    assert all(len(backbone.tokenizer(word)["input_ids"]) == 1 for word in MARKED)
    assert backbone.sizes.context == 2048


def test_an_episode_asks_only_for_labels_that_can_be_known():
    """Marks lie on labels of classes that were shown before, and on what follows a label."""
    texts = {f"m{n}": [f"alpha beta gamma word{n} text{i} more" for i in range(9)] for n in range(7)}
    words = [f"label{chr(97 + n)}" for n in range(12)]
    corpus = [*(f" {word}" for word in words * 9), *(text for found in texts.values() for text in found)]
    tokenizer = train_tokenizer(corpus * 20, 500)
    episodes = Episodes(tokenizer, texts, words, list(range(1, 500)) * 4)
    for kind in ("copy", "module"):
        tokens, marks = episodes.episode(400, (3, 5), random.Random(3), kind, classes=3)
        assert len(tokens) == len(marks) >= 400
        seen: list[str] = []
        start = 0
        while LABEL in marks[start:]:
            first = start + marks[start:].index(LABEL)
            last = first + next(n for n, mark in enumerate(marks[first:]) if mark != LABEL)
            assert marks[last] == NEXT
            name = tokenizer.decode(tokens[first:last]).strip()
            assert name in words
            assert name in tokenizer.decode(tokens[:first])
            seen.append(name)
            start = last
        assert len(set(seen)) == 3
        assert sum(mark == NEXT for mark in marks) == len(seen) + 3, "three labels are the first of their class"
    config = PretrainConfig(vocabulary=500, steps=3, tokens_per_step=192, warmup=1, lr=float("inf"))
    with pytest.raises(NonFiniteError, match="lower lr=inf"):
        train(config, Material(tokenizer, episodes, episodes), lambda *a: "")


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
