"""Tasks: chosen from options and data, kept in cards, and measured."""

from __future__ import annotations

import json

import pytest
import torch
from pt_core import Batch
from pt_core.bridges.answers import IGNORED, word_f1
from pt_core.errors import ArtifactError, ConfigError, DataError
from pt_language.data.load import load_text
from pt_language.modality import Language
from pt_language.options import DataOptions, TaskOptions
from pt_language.tasks.choose import label_words
from pt_language.tasks.classification import TextClassification
from pt_language.tasks.generation import Generation, LanguageModelling

from tests.language.common import LABELS, TEMPLATE, batch, tiny, tokenizer
from tests.language.data.test_load import CSV, write


def test_label_words_by_class():
    assert label_words(("1=good",), ("0", "1")) == ["0", "good"]
    with pytest.raises(ConfigError, match="'2'.*; the data have: 0, 1"):
        label_words(("2=x",), ("0", "1"))
    with pytest.raises(ConfigError, match="not CLASS=WORD"):
        label_words(("good",), ("0", "1"))


def test_a_word_of_zero_tokens_is_refused():
    what = TextClassification(["a", "b"], "{text}{label}", ["a", ""])
    with pytest.raises(DataError, match="label word '' has zero tokens"):
        what.attach(tiny("llama"))


def test_the_task_follows_from_the_data(tmp_path):
    modality = Language()
    table = load_text(str(write(tmp_path, "d.csv", CSV)), DataOptions())
    assert isinstance(modality.make_task(TaskOptions(), table), TextClassification)
    free = load_text(
        str(write(tmp_path, "e.csv", "text,answer\n" + "".join(f"t{i},answer {i}\n" for i in range(8)))), DataOptions()
    )
    assert isinstance(modality.make_task(TaskOptions(), free), Generation)
    lines = load_text(str(write(tmp_path, "f.txt", "one line\nanother line\n")), DataOptions())
    assert isinstance(modality.make_task(TaskOptions(), lines), LanguageModelling)
    with pytest.raises(DataError, match="8 different answers in 8 rows"):
        modality.make_task(TaskOptions(task="classification"), free)
    with pytest.raises(ConfigError, match="label_words belongs to task=classification"):
        modality.make_task(TaskOptions(label_words=("a=b",)), free)


def test_tasks_survive_the_card():
    for what in (
        TextClassification(LABELS, TEMPLATE, ["x", "y", "z"]),
        Generation(TEMPLATE, 7, 2),
        LanguageModelling("{text}"),
    ):
        spec = {"name": what.name, **what.to_json()}
        again = Language().task_from_json(json.loads(json.dumps(spec)))
        assert type(again) is type(what)
        assert again.to_json() == what.to_json()


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "other"},
        {"name": "generation", "template": "{a} {b}", "max_new_tokens": 10**9, "beams": 1},
        {"name": "generation", "template": 3, "max_new_tokens": 3, "beams": 1},
        {"name": "generation", "template": "no", "max_new_tokens": 3, "beams": 1},
        {"name": "classification", "labels": ["a", "b"], "template": "{a} {b}", "scoring": "magic"},
        {"name": "classification", "labels": ["a", "b"], "template": "{a} {b}", "scoring": "words", "words": ["x"]},
    ],
)
def test_tasks_of_a_foreign_card_are_checked(spec):
    with pytest.raises(ArtifactError):
        Language().task_from_json(spec)


def test_word_f1():
    assert word_f1("a b c", "a b d") == pytest.approx(2 / 3)
    assert (word_f1("", ""), word_f1("a", "")) == (1.0, 0.0)


def test_generation_metrics_count_tokens_and_exact_answers():
    what = Generation(TEMPLATE, 3)
    what.attach(tiny("llama"))
    ids = tokenizer()("hot", add_special_tokens=False)["input_ids"]
    one = batch(chosen=(0, 1))
    answer = torch.full((2, len(ids) + 1), IGNORED)
    answer[:, : len(ids)] = torch.tensor(ids)
    tokens = torch.full((2, 3), IGNORED)
    tokens[0, : len(ids)] = torch.tensor(ids)
    found = what.evaluator()
    predictions = {"tokens": tokens, "nll": torch.tensor([1.0, 3.0]), "count": torch.tensor([1, 3])}
    found.update(predictions, Batch(one.inputs, None, one.index, one.ids, {"answer": answer}))
    metrics = found.compute()
    assert metrics["exact_match"] == 0.5
    assert metrics["nll"] == 1.0
