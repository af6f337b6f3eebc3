"""Templates: parts and roles of a row, and their tokens."""

from __future__ import annotations

from typing import Any

import pytest
from pt_core.errors import ConfigError
from pt_language.data.templates import ANSWER, INPUT, INPUT_TEMPLATE, OUTPUT_TEMPLATE, SEPARATOR, Encoder, Template

from tests.language.common import tokenizer

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
