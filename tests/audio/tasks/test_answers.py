"""The task: what it measures, how an answer becomes a tag, and what a card may say."""

from __future__ import annotations

import pytest
import torch
from pt_audio.data.records import TASKS, Record
from pt_audio.tasks.answers import Answers
from pt_core import Batch
from pt_core.bridges.answers import IGNORED, word_f1
from pt_core.errors import ArtifactError, DataError
from torch.nn import functional as F

from tests.audio import tiny
from tests.audio.tiny import close


def test_an_answer_means_the_tag_of_equal_words_or_of_the_nearest_embedding() -> None:
    method = tiny.tuned()
    assert method.tag(["low", "mid", "high tone", ""], tiny.TAGS).tolist() == [1, 2, 0, -1]
    assert method.tag(["it is low, i think"], tiny.TAGS).tolist() == [1]  # one name inside
    (guess,) = method.tag(["a tone that is high"], tiny.TAGS).tolist()

    def embedded(text: str) -> torch.Tensor:
        ids = torch.tensor([method.text.tokens(text, 64)])
        return method.aligner.qformer(None, ids, torch.ones_like(ids)).text[0, 1:-1]  # words only

    tokens = embedded("a tone that is high")
    scores = [max(F.cosine_similarity(token, embedded(name).mean(0), dim=0) for token in tokens) for name in tiny.TAGS]
    assert guess == int(torch.stack(scores).argmax())
    batch = method.tag(["a tone that is high", "x", "low"], tiny.TAGS).tolist()
    assert (batch[0], batch[2]) == (guess, 1)  # whatever else is judged with it
    blind = tiny.tuned(instruct=False)
    assert blind.tag(["low", "a tone that is high"], tiny.TAGS).tolist() == [
        1,
        -1,
    ]  # words only: it has no text embedding


def test_metrics_of_known_answers() -> None:
    task = Answers(("cat", "dog"), max_new_tokens=6)
    task.attach(tiny.lm())
    ids = tiny.lm().tokens
    said, wanted = ["cat", "a dog", "no"], ["cat", "dog", "yes"]

    def rows(texts: list[str], end: bool) -> torch.Tensor:
        padded = torch.full((3, 6), IGNORED)
        for number, text in enumerate(texts):
            tokens = [*ids(text), *([tiny.lm().end] if end else [])]
            padded[number, : len(tokens)] = torch.tensor(tokens)
        return padded

    target = {"answer": rows(wanted, True), "tag": torch.tensor([0, 1, -1])}
    kinds = torch.tensor([TASKS.index(name) for name in ("tagging", "tagging", "question")])
    batch = Batch(None, target, torch.arange(3), ["a", "b", "c"], {"task": kinds})
    predictions = {
        "tokens": rows(said, False),
        "tag": torch.tensor([0, 0, -1]),
        "nll": torch.tensor([1.0, 2.0, 3.0]),
        "count": torch.tensor([4, 4, 4]),
    }
    evaluator = task.evaluator()
    evaluator.update(predictions, batch)
    found = evaluator.compute()
    assert found == pytest.approx(
        {
            "exact_match": 1 / 3,
            "word_f1": (1 + 2 / 3 + 0) / 3,
            "nll": 6 / 12,
            "tag_accuracy": 0.5,
            "exact_match/tagging": 0.5,
            "exact_match/question": 0.0,
        }
    )
    matrix = evaluator.tables()["confusion"]
    assert matrix == {"labels": ["cat", "dog", "(none)"], "matrix": [[1, 0, 0], [1, 0, 0], [0, 0, 0]]}
    records = task.records(predictions, batch)
    assert records[1] == {"id": "b", "label": "dog", "predicted": "a dog", "tag": "cat", "correct": False}
    assert task.line(records[0]) == "a\tcat"


def test_word_f1() -> None:
    assert word_f1("a b", "a b") == 1
    assert word_f1("", "") == 1
    assert word_f1("", "a") == 0
    assert word_f1("a a b", "a") == pytest.approx(0.5)


def test_the_loss_counts_answer_tokens_and_the_end() -> None:
    task = tiny.task()
    batch = tiny.batch(tiny.RECORDS[:3])
    answer = batch.target["answer"]
    logits = torch.randn(*answer.shape, tiny.LM_VOCABULARY, generator=torch.Generator().manual_seed(0))
    loss, count = task.loss(logits, batch)
    assert count == sum(len(tiny.lm().tokens(str(r.answer))) + 1 for r in tiny.RECORDS[:3])
    each = [-logits[i, j].log_softmax(0)[answer[i, j]] for i, j in (answer != IGNORED).nonzero().tolist()]
    close(loss, torch.stack(each).mean())


def test_a_task_is_stored_and_read_back() -> None:
    task = Answers(("a", "b"), 7, 3, 1.2, 0.5, 9, 8)
    spec = {"name": "answers", **task.to_json()}
    assert Answers.from_json(spec).to_json() == task.to_json()
    for change, message in (
        ({"name": "classification"}, "'classification' is unknown"),
        ({"tags": "ab"}, "list of texts 'tags'"),
        ({"beams": 0}, "whole number 'beams'"),
        ({"beams": True}, "whole number 'beams'"),
        ({"length_penalty": float("inf")}, "number 'length_penalty'"),
        ({"max_new_tokens": 10**9}, "whole number 'max_new_tokens'"),
    ):
        with pytest.raises(ArtifactError, match=message):
            Answers.from_json({**spec, **change})


def test_records_without_answers_cannot_be_trained_on() -> None:
    with pytest.raises(DataError, match="record 'x' of role 'train' has no answer"):
        tiny.task().check_dataset(tiny.AudioRecords(tiny.clips(), [Record("x", (0,), ("q",))]), "train")
    with pytest.raises(DataError, match="role 'val' has no records"):
        tiny.task().check_dataset(tiny.AudioRecords(tiny.clips(), []), "val")
