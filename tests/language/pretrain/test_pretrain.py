"""Pretraining of the built-in model: its episodes, its loop and the folder it writes."""

from __future__ import annotations

import json
import random

import pytest
from pt_core.errors import NonFiniteError
from pt_language.backbones import load_backbone
from pt_language.pretrain.config import PretrainConfig
from pt_language.pretrain.episodes import LABEL, NEXT, Episodes
from pt_language.pretrain.material import Material, train_tokenizer
from pt_language.pretrain.train import MARKED, pretrain, save, train


@pytest.mark.slow
def test_pretraining_writes_a_folder_that_loads(tmp_path, monkeypatch):
    """Also on the way; and the circuit it starts from compares and copies before any training."""
    monkeypatch.setattr("pt_language.pretrain.train.ROUNDS", (10, 40))
    config = PretrainConfig(steps=4, tokens_per_step=256, keep_every=2, lr=1e-6)
    written = []
    monkeypatch.setattr("pt_language.pretrain.train.save", lambda *a: (written.append(a[2]["steps_done"]), save(*a)))
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
