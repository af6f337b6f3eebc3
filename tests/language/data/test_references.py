"""Several accepted answers of one text: the first is learned, the metrics take the nearest, and classes are never lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pt_core.bridges.answers import IGNORED
from pt_core.errors import DataError
from pt_language.data.load import load_text
from pt_language.modality import Language
from pt_language.options import DataOptions, TaskOptions
from pt_language.tasks.generation import Generation

from tests.language.common import batch, tiny, tokenizer

ROWS: list[dict[str, Any]] = [
    {"question": "who rules", "answer": ["the king", "a king", "the king"]},
    {"question": "what falls", "answer": "rain or snow"},
    {"question": "where is ice", "answer": {"text": ["on the lake"], "answer_start": [3]}},
    {"question": "what burns", "answer": ["the sun in the desert", "sun", "fire"]},
]


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def ids(text: str) -> list[int]:
    return list(tokenizer()(" " + text, add_special_tokens=False)["input_ids"])


def test_the_first_is_learned_and_all_are_kept(tmp_path: Path) -> None:
    found = load_text(write(tmp_path, ROWS), DataOptions())
    train = found["train"]
    assert train.labels is None
    assert [row["answer"] for row in train.rows] == ["the king", "rain or snow", "on the lake", "the sun in the desert"]
    assert (
        "2 of 4 rows of the train part have several answers in 'answer': the first is learned, metrics accept every one"
        in train.notes
    )
    task = Language().make_task(TaskOptions(), found)
    assert isinstance(task, Generation)
    part = train.bind(tiny("llama"), task)
    one = part.collate([0, 1, 3], [part.sample(i, epoch=None, seed=0) for i in (0, 1, 3)])
    assert [[token for token in row if token not in (IGNORED, 0)] for row in one.target.tolist()] == [
        ids("the king"), ids("rain or snow"), ids("the sun in the desert")
    ]  # fmt: skip
    others = [[[token for token in line if token != IGNORED] for line in row] for row in one.extra["others"].tolist()]
    assert others == [[ids("a king"), []], [[], []], [ids("sun"), ids("fire")]]
    assert "others" not in part.collate([1, 2], [part.sample(i, epoch=None, seed=0) for i in (1, 2)]).extra
    fewer = [dict(ROWS[0], answer=["the king", "another"]), *ROWS[1:]]
    assert load_text(write(tmp_path, fewer), DataOptions())["train"].identity() != train.identity()


def test_metrics_take_the_nearest_answer(tmp_path: Path) -> None:
    found = load_text(write(tmp_path, ROWS), DataOptions())
    task = Language().make_task(TaskOptions(), found)
    assert isinstance(task, Generation)
    backbone = tiny("llama")
    task.attach(backbone)
    part = found["train"].bind(backbone, task)
    one = part.collate(range(4), [part.sample(i, epoch=None, seed=0) for i in range(4)])
    said = [
        "a king",
        "rain",
        "nothing",
        "the fire",
    ]  # F1: 1, 2 * 1 / (1 + 3), 0, the nearer of "sun" (0), "fire" (2/3), the first (2/7)
    tokens = torch.full((4, 64), IGNORED)
    for row, text in enumerate(said):
        tokens[row, : len(ids(text))] = torch.tensor(ids(text))
    predictions = {"tokens": tokens, "nll": torch.ones(4), "count": torch.full((4,), 2)}
    evaluator = task.evaluator()
    evaluator.update(predictions, one)
    metrics = evaluator.compute()
    assert metrics["exact_match"] == 0.25
    assert metrics["word_f1"] == pytest.approx((1 + 0.5 + 0 + 2 / 3) / 4)
    rows = task.records(predictions, one)
    assert [row["correct"] for row in rows] == [True, False, False, False]
    assert [row["answer"] for row in rows] == ["the king", "rain or snow", "on the lake", "the sun in the desert"]


def test_batches_without_lists_are_as_before() -> None:
    assert "others" not in batch(what=Generation("input: {text} output: {label}", 4)).extra


def test_lists_are_no_classes(tmp_path: Path) -> None:
    repeated = [{"question": f"q{i}", "answer": [("yes", "no")[i % 2], "maybe"]} for i in range(8)]
    found = load_text(write(tmp_path, repeated), DataOptions())
    for task in ("auto", "classification"):
        with pytest.raises(
            DataError, match=r"row 'train/0' has a list as 'answer'; a class is one text.*--task generation"
        ):
            Language().make_task(TaskOptions(task=task), found)  # type: ignore[arg-type]
    task = Language().make_task(TaskOptions(task="generation"), found)
    assert isinstance(task, Generation)
    plain = [{"question": f"q{i}", "answer": ("yes", "no")[i % 2]} for i in range(8)]
    trained = Language().make_task(TaskOptions(), load_text(write(tmp_path, plain), DataOptions()))
    with pytest.raises(DataError, match="row 'train/0' has a list as 'answer'"):
        load_text(write(tmp_path, repeated), DataOptions())["train"].bind(tiny("llama"), trained)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([], r"row 'train/1' of .* has an empty 'answer' \(\[\]\); leave such rows out with --where 'answer!=\[\]'"),
        (["a", " "], "row 'train/1' of .* has an empty 'answer'"),
        ([1, 2], "row 'train/1' of .* has a list as 'answer'.*a text or a list of texts"),
        ({"a": "b"}, "row 'train/1' of .* has a mapping as 'answer'"),
    ],
)  # fmt: skip
def test_other_lists_are_refused(cell: Any, message: str, tmp_path: Path) -> None:
    rows = [*ROWS[:1], {"question": "x", "answer": cell}]
    path = write(tmp_path, rows)
    with pytest.raises(DataError, match=message):
        load_text(path, DataOptions())
    if cell == []:
        assert len(load_text(path, DataOptions(where=("answer!=[]",)))["train"]) == 1
    for column in ("label", "text"):  # of classes, and running text
        other = [{column: cell, **({"sentence": "x"} if column == "label" else {})}]
        with pytest.raises(DataError, match="every cell must be one text or number|has an empty"):
            load_text(write(tmp_path, other), DataOptions())
