"""Records made from labelled clips: every task, its answers, and what it needs."""

from __future__ import annotations

import pytest
from pt_audio.data import wording as say
from pt_audio.data.builder import Builder, Labelled
from pt_audio.data.records import TASKS, parse_weights
from pt_audio.data.synth import Event
from pt_core.errors import ConfigError, DataError


def labelled(each: int = 3) -> list[Labelled]:
    return [
        Labelled(n, f"clip-{n}", (Event(name, 0, 1),)) for n, name in enumerate(["dog", "cat", "rain", "bell"] * each)
    ]


def timed() -> list[Labelled]:
    return [
        Labelled(0, "one", (Event("dog", 0.2, 1.9), Event("bell", 2.6, 4.2)), True),
        Labelled(1, "two", (Event("dog", 1.0, 2.0), Event("dog", 3.0, 4.0), Event("cat", 5.0, 5.2)), True),
    ]


def test_every_task_has_its_records() -> None:
    builder = Builder(timed(), 0)
    texts = {task: [(r.texts, r.answer) for r in builder.build([task])] for task in TASKS if task != "few_shot"}
    assert texts["tagging"] == [(("what are the sound events?",), "dog and bell"), ((say.TAGGING,), "dog and cat")]
    assert texts["captioning"][0] == (("describe the audio clip concisely.",), "a dog barks, then a bell rings")
    assert texts["localisation"] == [
        (("when does the dog happen?",), "from 0 to 2 seconds"),
        (("when does the bell happen?",), "from 3 to 4 seconds"),
        (("when does the cat happen?",), "from 5 to 6 seconds"),  # two barks have no single time
    ]
    assert texts["retrieval"][1] == (("what happens from 3 to 4 seconds?",), "bell")
    for (question,), answer in texts["question"]:
        if question.startswith("is there"):
            clip_labels = [["dog", "bell"], ["dog", "cat"]]
            assert answer in ("yes", "no")
            asked = question.removeprefix("is there a ").rstrip("?")
            assert any((asked in found) == (answer == "yes") for found in clip_labels)
        else:
            assert (question, answer) in {(say.COUNT, "two"), (say.FIRST, "dog")}
    for (first, question), answer in texts["reasoning"]:
        assert first == "this is the first clip."
        assert answer in ("yes", "no", "first", "second")
        assert question.startswith(("do both clips", "which clip"))


def test_reasoning_answers_are_right() -> None:
    clips = labelled(10)
    names = [item.labels[0] for item in clips]
    records = Builder(clips, 3).build(["reasoning"])
    assert {record.answer for record in records} == {"yes", "no", "first", "second"}
    for record in records:
        there = [names[i] in record.texts[1].split() or f"{names[i]}?" in record.texts[1].split() for i in record.clips]
        want = {"yes": [True, True], "first": [True, False], "second": [False, True]}.get(str(record.answer))
        assert there == want if want else sum(there) == 1


def test_episodes_have_a_support_clip_per_class_and_an_open_query() -> None:
    clips = labelled()
    names = {item.clip: item.labels[0] for item in clips}
    records = Builder(clips, 0, ways=3, shots=1).build(["few_shot"])
    assert len(records) == len(clips)
    places = set()
    for record in records:
        support, query = record.clips[:-1], record.clips[-1]
        assert query not in support
        assert len(support) == len({names[i] for i in support}) == 3
        assert names[query] in {names[i] for i in support}
        assert record.texts[-1] == "this is a sound of"
        assert list(record.texts[:-1]) == [f"this is a sound of {names[i]}" for i in support]
        assert record.answer == record.label == names[query]
        places.add([names[i] for i in support].index(names[query]))
    assert places == {0, 1, 2}
    assert records == Builder(clips, 0, ways=3, shots=1).build(["few_shot"])
    assert records != Builder(clips, 1, ways=3, shots=1).build(["few_shot"])
    with pytest.raises(DataError, match="need 5 classes with more than 1 clips.*this part has 4"):
        Builder(clips, 0).build(["few_shot"])


def test_times_are_needed_where_they_are_asked_for() -> None:
    with pytest.raises(DataError, match="'localisation' needs events with times"):
        Builder(labelled(), 0).build(["localisation"])


def test_weights_of_tasks() -> None:
    assert parse_weights(("few_shot=2",))["few_shot"] == 2
    assert parse_weights(())["question"] == 0.1
    with pytest.raises(ConfigError, match="must be a number from 0 up"):
        parse_weights(("tagging=-1",))
