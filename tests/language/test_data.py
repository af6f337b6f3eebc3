"""Templates, tables and tokenised rows: parts and roles, missing columns, empty texts, classes and split columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pt_core.bridges.answers import IGNORED, word_f1
from pt_core.errors import ArtifactError, ConfigError, DataError
from pt_language.data import DataOptions, TextDataset, load_text
from pt_language.inputs import input_texts
from pt_language.modality import Language, TaskOptions, label_words
from pt_language.tasks.text import Generation, LanguageModelling, TextClassification, task_from_json
from pt_language.templates import ANSWER, INPUT, INPUT_TEMPLATE, OUTPUT_TEMPLATE, SEPARATOR, Encoder, Template

from tests.language.common import LABELS, TEMPLATE, batch, tiny, tokenizer

ROW = {"question": "why?", "context": "so", "answer": "because"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("q: {question} a: {answer}", [("q:", 1), (" why?", 2), (" a:", 3)]),
        ("{question}\\nAnswer: {answer}", [("why?", 2), ("\n", 0), ("Answer:", 3)]),
        ("{context} and {question} => {answer}", [("so", 2), (" and", 1), (" why?", 2), (" =>", 3)]),
        ("{question} {answer}", [("why?", 2)]),
        ("{answer}", []),
    ],
)
def test_templates_split_into_parts_with_roles(text, parts):
    assert Template(text).parts(ROW) == parts


def test_the_tokens_of_the_parts_are_the_tokens_of_the_whole():
    encoder, template = Encoder(tokenizer()), Template("q: {question} a: {answer}")
    source, answer = encoder.source(template, ROW), encoder.answer(template, ROW["answer"])
    whole = tokenizer()("q: why? a: because", add_special_tokens=False)["input_ids"]
    assert [*source.ids, *answer.ids] == whole
    assert set(source.roles) == {INPUT_TEMPLATE, INPUT, OUTPUT_TEMPLATE}
    assert set(answer.roles) == {ANSWER}
    assert SEPARATOR not in source.roles


def test_tokenizers_that_mark_word_starts_themselves_get_no_second_space():
    class Pieces:
        eos_token_id, sep_token_id = 1, None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [hash("_" + word) for word in text.split(" ")] if text else []}

    encoder = Encoder(Pieces())
    assert encoder.strips
    assert encoder.encode(" word", 0) == encoder.encode("word", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no field", "needs plain {column} fields"),
        ("{a} {", "is not valid"),
        ("{a} {b} end", "text behind the answer field {b}"),
        ("{a} and {a}", "shows the answer field {a} in the input"),
        ("{} {b}", "needs plain {column} fields"),
        ("{a!r} {b}", "needs plain {column} fields"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(text, message):
    with pytest.raises(ConfigError) as error:
        Template(text)
    assert message in str(error.value)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


CSV = "text,label,split\n" + "".join(f"row {i},{'ab'[i % 2]},{'train' if i < 8 else 'test'}\n" for i in range(12))


def test_a_table_with_a_split_column(tmp_path):
    parts = load_text(str(write(tmp_path, "d.csv", CSV)), DataOptions())
    assert {role: len(part) for role, part in parts.items()} == {"train": 8, "test": 4}
    assert parts["train"].classes == ("a", "b")
    assert parts["train"].template.text == TEMPLATE


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".tsv"])
def test_other_kinds_of_tables(suffix, tmp_path):
    import pandas as pd

    rows = [{"question": f"q{i}", "answer": f"long answer {i}"} for i in range(6)]
    path = tmp_path / f"d{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".tsv":
        frame.to_csv(path, sep="\t", index=False)
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    found = load_text(str(path), DataOptions(template="{question}\nAnswer: {answer}"))["train"]
    assert len(found) == 6
    assert found.labels is None, "six different answers are no classes"
    assert found.rows[2]["answer"] == "long answer 2"


def test_a_folder_with_a_file_per_part(tmp_path):
    for name in ("sst_train.csv", "sst_dev.csv", "sst_test.csv"):
        write(tmp_path, name, "text,label\nx,a\ny,b\nz,a\nw,b\n")
    assert list(load_text(str(tmp_path), DataOptions())) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "text,label\na,b\n",
            {"template": "{txt} {label}"},
            r"no column 'txt' \(did you mean 'text'\?\).*it has: text, label",
        ),
        ("text,label\na,\nb,c\n", {}, "row 'train/0' of .* has an empty 'label'"),
        ("x,y\na,b\n", {}, "columns x, y do not tell.*--template"),
        ("text,label\na,b\n", {"where": ("kind=x",)}, "no column 'kind'"),
        ("text,label\na,b\n", {"where": ("label=zzz",)}, "no rows that fit --where"),
        ("text,label\n", {}, "has no rows"),
        ("text,label,split\na,b,somewhere\n", {}, "'somewhere'; it may hold train, val and test"),
    ],
)
def test_bad_tables_are_named(content, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_text(str(write(tmp_path, "d.csv", content)), DataOptions(**options))


@pytest.mark.parametrize(
    ("spec", "message"), [("nowhere.csv", "does not exist"), ("builtin:x", "no built-in data 'x'")]
)
def test_data_that_are_not_there(spec, message):
    with pytest.raises(DataError, match=message):
        load_text(spec, DataOptions())


def test_broken_files_and_wrong_kinds(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_text(str(write(tmp_path, "d.jsonl", "{broken")), DataOptions())
    with pytest.raises(DataError, match="must hold a list of objects"):
        load_text(str(write(tmp_path, "d.json", "[1, 2]")), DataOptions())
    with pytest.raises(DataError, match="no known kind"):
        load_text(str(write(tmp_path, "d.doc", "x")), DataOptions())


def test_batches_pad_texts_left_and_answers_right():
    one = batch()
    mask, answer = one.inputs["mask"], one.extra["answer"]
    assert bool((mask[:, -1] == 1).all())
    assert bool(((mask[:, 1:] - mask[:, :-1]) >= 0).all())
    assert bool(((answer == IGNORED).long().diff(dim=1) >= 0).all())
    assert one.target.tolist() == [0, 1, 2, 0, 1]


def test_free_answers_end_with_the_end_token():
    what = Generation(TEMPLATE, 4)
    part = TextDataset([{"text": "a", "label": "b c"}], ["r"], Template(TEMPLATE), None).bind(tiny("llama"), what)
    assert part.collate([0], [part.sample(0, epoch=None, seed=0)]).extra["answer"][0, -1] == 0


def test_running_text_starts_from_the_end_token():
    what = LanguageModelling("{text}")
    part = TextDataset([{"text": "some text"}], ["r"], Template("{text}"), None).bind(tiny("llama"), what)
    assert part.collate([0], [part.sample(0, epoch=None, seed=0)]).inputs["ids"].tolist() == [[0]]


def test_texts_are_cut_only_when_asked_to():
    data = TextDataset([{"text": "a long text here", "label": "x"}], ["r"], Template(TEMPLATE), None)
    whole, cut = (data.bind(tiny("llama"), Generation(TEMPLATE), n).samples[0].source for n in (None, 3))
    assert cut.roles.count(INPUT) == 3 < whole.roles.count(INPUT)


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
        again = task_from_json(json.loads(json.dumps(spec)))
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
        task_from_json(spec)


def test_inputs_for_prediction(tmp_path):
    path = write(tmp_path, "in.csv", "body\nfirst\nsecond\n")
    template = Template(TEMPLATE)
    found = input_texts(["a text", {"text": "b"}, str(path)], template, "body").rows
    assert [row["text"] for row in found] == ["a text", "b", "first", "second"]
    with pytest.raises(DataError, match="no column 'text'"):
        input_texts([str(path)], template)
    with pytest.raises(DataError, match="has the inputs a, b"):
        input_texts(["x"], Template("{a} {b} {c}"))
    with pytest.raises(DataError, match="no input texts"):
        input_texts([], template)


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
    from pt_core import Batch

    found = what.evaluator()
    predictions = {"tokens": tokens, "nll": torch.tensor([1.0, 3.0]), "count": torch.tensor([1, 3])}
    found.update(predictions, Batch(one.inputs, None, one.index, one.ids, {"answer": answer}))
    metrics = found.compute()
    assert metrics["exact_match"] == 0.5
    assert metrics["nll"] == 1.0
