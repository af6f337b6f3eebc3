"""The built-in model and text, runs on them, and the report."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pt_language
import pytest
import torch
from pt_core.errors import UserError
from pt_language.backbones import ASSETS, load_backbone
from pt_language.data.builtin import MODULES, NOUNS
from pt_language.data.corpus import HELD_OUT, module_sentences, sentences, window
from pt_language.data.tables import read_tables
from pt_language.methods.cpt import CPT

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


def test_help_does_not_import_torch():
    import subprocess

    code = (
        "import sys; from pt_language.modality import Language; Language().task_options; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_readmes_examples_run(tmp_path, monkeypatch, capsys):
    """In order and in one namespace, as a reader would paste them."""
    page = (Path(__file__).parents[2] / "packages" / "pt-language" / "README.md").read_text()
    code, namespace = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE), {}
    assert len(code) == 2
    monkeypatch.chdir(tmp_path)
    for block in code:
        exec(compile(block, "README.md", "exec"), namespace)
    said = capsys.readouterr().out
    assert "'predicted'" in said
    assert said.rstrip().endswith("torch.Size([2, 3])")
