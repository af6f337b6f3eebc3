"""Tables to rows: files of every kind, folders, split columns, classes, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pt_core.errors import DataError
from pt_language.data.load import load_text
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
