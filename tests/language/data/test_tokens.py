"""Tokenised rows: padding, end tokens, running text and cut texts."""

from __future__ import annotations

from pt_core.bridges.answers import IGNORED
from pt_language.data.templates import INPUT, Template
from pt_language.data.texts import TextDataset
from pt_language.tasks.generation import Generation, LanguageModelling

from tests.language.common import TEMPLATE, batch, tiny


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
