"""Records as tokens."""

from __future__ import annotations

import pytest
from pt_audio.data.batches import Limits
from pt_audio.data.dataset import AudioRecords
from pt_audio.data.records import Record
from pt_core.errors import DataError, UserError

from tests.audio import tiny


def test_answers_texts_and_captions_become_tokens() -> None:
    part = tiny.bound()
    tokens = part.tokens[2]
    assert part.tokens[2].answer == (*tiny.lm().tokens("high tone"), 1)
    assert tokens.caption[0] == tiny.text_tokenizer().cls_token_id
    batch = part.collate([2, 0], [part.sample(i, epoch=None, seed=0) for i in (2, 0)])
    assert batch.target["answer"].tolist()[1] == [*tiny.lm().tokens("low"), 1] + [-100] * 6
    assert batch.target["tag"].tolist() == [0, 1]


def test_long_texts_keep_the_end_of_instructions_and_the_beginning_of_answers() -> None:
    record = Record("long", (0,), ("abcdefghij" * 3,), "0123456789" * 3, "question")
    base = AudioRecords(tiny.clips(), [record])
    (tokens,) = base.bind(tiny.encoder(), tiny.text(), tiny.lm(), (), Limits(8, 6)).tokens
    assert tokens.told == (tuple(tiny.lm().tokens("cdefghij")),)
    assert tokens.asked[0][1:-1] == tuple(tiny.text_tokenizer()("efghij", add_special_tokens=False)["input_ids"])
    assert tokens.answer == (*tiny.lm().tokens("01234"), 1)


def test_records_that_cannot_be_bound() -> None:
    for record, message in (
        (Record("a", (0, 1), ("x",), "y"), "2 clips and 1 texts"),
        (Record("a", (0,), ("x",), " "), "answer of zero tokens"),
        (Record("a", (0,), ("",), None), "no text behind its last clip"),
    ):
        with pytest.raises((DataError, UserError), match=message):
            tiny.bound([record])
