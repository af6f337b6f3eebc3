"""Tables to rows: files of every kind, folders, split columns, classes, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from pt_core.errors import DataError
from pt_language.data.inputs import input_texts
from pt_language.data.load import load_text
from pt_language.data.places import check_place
from pt_language.data.templates import Template
from pt_language.options import DataOptions

from tests.language.common import TEMPLATE


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
        ("context,question,answer\n,,b\n", {}, "row 'train/0' of .* has an empty 'context'"),
        (
            "text,label\na,x\nb,y\nc,z\n",
            {"limit": 2},
            "--limit 2 leaves out classes: .* has 3; give at least as many rows",
        ),
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


@pytest.mark.parametrize(
    ("columns", "template"),
    [
        ("sentence,label", "input: {sentence} output: {label}"),
        ("answer,context,question", "context: {context} question: {question} output: {answer}"),
        ("instruction,input,output", "instruction: {instruction} input: {input} output: {output}"),
        ("question,sentence,label,idx", "question: {question} sentence: {sentence} output: {label}"),
        ("premise,hypothesis,label", "premise: {premise} hypothesis: {hypothesis} output: {label}"),
        ("prompt,completion", "input: {prompt} output: {completion}"),
    ],
)
def test_the_default_template_shows_every_text_column_and_is_told(columns, template, tmp_path):
    names = columns.split(",")
    content = "\n".join([columns, *(",".join(f"{name} {i % 2}" for name in names) for i in range(6))])
    found = load_text(str(write(tmp_path, "d.csv", content)), DataOptions())["train"]
    assert found.template.text == template
    assert found.notes == (f"template: {template!r}, from the columns; --template takes another",)
    assert load_text(str(tmp_path / "d.csv"), DataOptions(template=template))["train"].notes == ()


def test_some_texts_of_several_may_be_empty_and_are_counted(tmp_path):
    content = "instruction,input,output\nadd,1 2,3\nsing,,la\nadd,2 2,4\nrun,,ok\n"
    found = load_text(str(write(tmp_path, "d.csv", content)), DataOptions())["train"]
    assert len(found) == 4
    assert "2 rows of the train part have an empty 'input'" in found.notes


@pytest.mark.parametrize("cell", [["pos", "x"], {"a": 1}, []])
def test_lists_and_mappings_are_no_text(cell, tmp_path):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": cell}]
    path = write(tmp_path, "d.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="row 'train/1' of .* has a (list|mapping) as 'label'"):
        load_text(str(path), DataOptions())
    with pytest.raises(DataError, match="has a (list|mapping) as 'text'; every cell must be one text or number"):
        input_texts([{"text": cell}], Template("{text} {label}"))
    beside = [{"text": "a", "label": "x", "tokens": cell}, {"text": "b", "label": "y", "tokens": cell}]
    path = write(tmp_path, "e.jsonl", "\n".join(map(json.dumps, beside)))
    assert load_text(str(path), DataOptions())["train"].classes == ("x", "y"), "other columns may hold them"


def test_missing_values_of_every_kind_are_empty(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match="row 'train/1' of .* has an empty 'label'"):
        load_text(str(tmp_path / "d.parquet"), DataOptions())


def test_a_column_of_classes_needs_no_second_example_of_any(tmp_path):
    """77 intents in 77 rows; names of any length."""
    content = "\n".join(
        ["text,intent", *(f"text {i},intent number {i} of a bank with a rather long name" for i in range(77))]
    )
    found = load_text(str(write(tmp_path, "d.csv", content)), DataOptions())["train"]
    assert len(found.classes) == 77
    assert sorted(found.labels) == list(range(77))
    free = "\n".join(["text,answer", *(f"text {i},word{i}" for i in range(77))])
    assert load_text(str(write(tmp_path, "e.csv", free)), DataOptions())["train"].labels is None
    essays = "\n".join(["text,label", *(f"text {i},{'word ' * 60}{i}" for i in range(4))])
    assert load_text(str(write(tmp_path, "f.csv", essays)), DataOptions())["train"].labels is None


def test_a_limit_keeps_every_class(tmp_path):
    """Also those that the first rows of the shuffle lack; otherwise the rows are those."""
    labels = ["a"] * 60 + ["b"] * 36 + ["c", "d", "e", "e"]
    write(tmp_path, "train.csv", "\n".join(["text,label", *(f"{i},{label}" for i, label in enumerate(labels))]))
    write(tmp_path, "test.csv", "\n".join(["text,label", *(f"{i},{label}" for i, label in enumerate(labels))]))
    for limit in (5, 6, 20, 99):
        found = load_text(str(tmp_path), DataOptions(limit=limit))
        for part in found.values():
            assert len(part) == len(set(part.ids)) == limit
            assert set(part.labels) == set(range(5))
            assert [part.rows[i]["label"] for i in range(limit)] == [part.classes[label] for label in part.labels]
    few = load_text(str(tmp_path), DataOptions(limit=5))["train"]
    many = load_text(str(tmp_path), DataOptions(limit=99))["train"]
    assert set(few.ids) <= set(many.ids) | {"train/96", "train/97"}


def test_saved_data_sets_are_read_with_their_class_names(tmp_path):
    """As `save_to_disk` writes them; -1 is the label of a test part that is held back."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )

    def part(labels):
        rows = {"text": [f"text {i}" for i in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    whole = datasets.DatasetDict({"train": part([0, 1, 1, 0]), "validation": part([1, 0]), "test": part([-1, -1])})
    whole.save_to_disk(tmp_path / "whole")
    found = load_text(str(tmp_path / "whole"), DataOptions())
    assert list(found) == ["train", "val"]
    assert found["train"].classes == ("bad", "good")
    assert [row["label"] for row in found["train"].rows] == ["bad", "good", "good", "bad"]
    part([1, 0, 1]).save_to_disk(tmp_path / "one")
    assert list(load_text(str(tmp_path / "one"), DataOptions())["train"].labels) == [1, 0, 1]
    check_place(str(tmp_path / "one"))
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        load_text(str(tmp_path / "one"), DataOptions())
