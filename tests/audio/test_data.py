"""Records: builders, JSON lines, tables, folders, splits by clip, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pt_audio import wording as say
from pt_audio.data import AudioRecords, DataOptions, load_audio
from pt_audio.records import TASKS, Builder, Labelled, Record, parse_line, parse_weights
from pt_audio.synth import LABELS, Event, clip
from pt_core.errors import ConfigError, DataError, UserError

from tests.audio import tiny

RATE = tiny.RATE


def tone(path: Path, pitch: float = 300, seconds: float = 0.3, seed: int = 0) -> Path:
    t = np.arange(int(seconds * RATE)) / RATE
    noise = 0.05 * np.random.default_rng(seed).standard_normal(len(t))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * t) + noise, RATE)
    return path


def folder(root: Path, classes: Any = ("low", "mid_tone", "high"), each: int = 6) -> Path:
    for number, name in enumerate(classes):
        for i in range(each):
            tone(root / name / f"{i}.wav", 200 + 500 * number, 0.2 + 0.05 * i, seed=100 * number + i)
    return root


def labelled(each: int = 3) -> list[Labelled]:
    return [
        Labelled(n, f"clip-{n}", (Event(name, 0, 1),)) for n, name in enumerate(["dog", "cat", "rain", "bell"] * each)
    ]


def timed() -> list[Labelled]:
    return [
        Labelled(0, "one", (Event("dog", 0.2, 1.9), Event("bell", 2.6, 4.2)), True),
        Labelled(1, "two", (Event("dog", 1.0, 2.0), Event("dog", 3.0, 4.0), Event("cat", 5.0, 5.2)), True),
    ]


# ---- builders --------------------------------------------------------------------------------------------------------------


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


# ---- JSON lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"audio": "a.wav"}, "needs 'audio' and 'text_input'"),
        ({"audio": ["a", "b"], "text_input": ["x"]}, "2 clips and 1 texts; give one text per clip"),
        ({"audio": "a", "text_input": "x", "text_output": " "}, "empty answer"),
        ({"audio": "a", "text_inpt": "x"}, "unknown key 'text_inpt'.*did you mean 'text_input'"),
        ({"audio": 3, "text_input": "x"}, "'audio' must be a text or a list of texts"),
        ({"audio": "a", "text_input": "x", "task": "taging"}, "task 'taging'.*did you mean 'tagging'"),
        ([1], "not a JSON object"),
    ],
)
def test_lines_that_are_refused(content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_line(content, "x.jsonl:3")


def test_a_jsonl_file_is_read_relative_to_itself(tmp_path: Path) -> None:
    tone(tmp_path / "sounds" / "a.wav")
    tone(tmp_path / "sounds" / "b.wav", 700)
    lines = [
        {"audio": "sounds/a.wav", "text_input": "what?", "text_output": "low", "task": "tagging", "label": "low"},
        {"audio": ["sounds/a.wav", "sounds/b.wav"], "text_input": ["this is low.", "this is"], "text_output": "high"},
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    found = load_audio(str(path), DataOptions(), 0)["train"]
    assert [clip.path for clip in found.clips] == [tmp_path / "sounds/a.wav", tmp_path / "sounds/b.wav"]
    assert [record.clips for record in found.records] == [(0,), (0, 1)]
    assert found.groups == [str(tmp_path / "sounds/a.wav")] * 2  # they share a clip
    path.write_text("{not json\n")
    with pytest.raises(DataError, match=r"records.jsonl:1 is not JSON"):
        load_audio(str(path), DataOptions(), 0)
    path.write_text(json.dumps({"audio": "gone.wav", "text_input": "x", "text_output": "y"}))
    with pytest.raises(DataError, match=r"gone.wav does not exist"):
        load_audio(str(path), DataOptions(), 0)


# ---- folders and tables ----------------------------------------------------------------------------------------------------


def test_a_folder_is_split_by_clip_before_records_are_made(tmp_path: Path) -> None:
    options = DataOptions(tasks=("tagging", "few_shot", "question"), ways=2, val_fraction=0.34, test_fraction=0.34)
    found = load_audio(str(folder(tmp_path / "clips", each=9)), options, 0)
    assert set(found) == {"train", "val", "test"}
    used = {role: {part.clips[i].path for r in part.records for i in r.clips} for role, part in found.items()}
    assert not used["train"] & used["test"]
    assert not used["train"] & used["val"]
    assert sum(len(paths) for paths in used.values()) == 27
    assert found["train"].tags == ("high", "low", "mid tone")
    assert any("clips split off (stratified, seed 0)" in note for note in found["train"].notes)
    assert any("4,000 Hz" in note for note in found["train"].notes)


def test_tagging_alone_has_classes(tmp_path: Path) -> None:
    root = folder(tmp_path / "clips")
    found = load_audio(str(root), DataOptions(), 0)
    assert found["train"].classes == ("high", "low", "mid tone")
    assert len(found["train"].labels or ()) == len(found["train"])
    (root / "train").mkdir()
    for name in ("low", "mid_tone", "high"):
        (root / name).rename(root / "train" / name)
    assert set(load_audio(str(root), DataOptions(test_fraction=0.0), 0)) == {"train", "val"}


def test_a_table_of_strong_labels(tmp_path: Path) -> None:
    for name in "abcd":
        tone(tmp_path / f"{name}.wav", seconds=1.0)
    table = tmp_path / "events.csv"
    rows = [
        f"{name}.wav,{onset},{onset + 0.4},{label}" for name in "abcd" for onset, label in ((0.5, "dog"), (0.0, "bell"))
    ]
    table.write_text("file,onset,offset,label\n" + "\n".join(rows) + "\n")
    found = load_audio(str(table), DataOptions(tasks=("tagging", "localisation"), test_fraction=0.25), 0)
    record = found["train"].records[0]
    assert record.answer == "bell and dog"  # by time, not by row
    assert found["train"].tags == ("bell", "dog")
    for bad, message in (
        ("file,onset,label\na.wav,0,dog\n", "no column 'offset'"),
        ("file,onset,offset,label\na.wav,0.5,0.2,dog\n", "events.csv:2: 0.5 to 0.2 is no stretch of a.wav"),
        ("file,onset,offset,label\na.wav,0,x,dog\n", "events.csv:2: 0 to x is no stretch"),
        ("file,onset,offset,label\na.wav,0,9,dog\n", "is no stretch"),
        ("file,onset,offset,label\n", "has no rows"),
    ):
        table.write_text(bad)
        with pytest.raises(DataError, match=message):
            load_audio(str(table), DataOptions(), 0)


def test_places_without_audio(tmp_path: Path) -> None:
    for spec, message in (
        (str(tmp_path), "no audio files in class folders"),
        (str(tmp_path / "gone"), "is neither a folder"),
        ("builtin:sound", "known: builtin:sounds"),
    ):
        with pytest.raises(DataError, match=message):
            load_audio(spec, DataOptions(), 0)
    with pytest.raises(ConfigError, match="'taging' is unknown.*did you mean 'tagging'"):
        load_audio(str(tmp_path), DataOptions(tasks=("taging",)), 0)


def test_weights_of_tasks() -> None:
    assert parse_weights(("few_shot=2",))["few_shot"] == 2
    assert parse_weights(())["question"] == 0.1
    with pytest.raises(ConfigError, match="must be a number from 0 up"):
        parse_weights(("tagging=-1",))


def test_generated_clips_hold_what_they_say() -> None:
    rng = np.random.default_rng(0)
    made = clip(rng, 6.0, ["bell", "rain"])
    assert [event.label for event in made.events] == ["bell", "rain"]
    assert (
        0 <= made.events[0].onset < made.events[0].offset <= 3.0 <= made.events[1].onset < made.events[1].offset <= 6.0
    )
    for label in LABELS:
        one = clip(np.random.default_rng(1), 4.0, [label])
        (event,) = one.events
        inside = one.wave[int(event.onset * 16_000) : int(event.offset * 16_000)]
        assert np.abs(one.wave).max() <= 1
        assert np.sqrt(np.mean(inside**2)) > 5 * np.sqrt(np.mean(one.wave[: int(event.onset * 16_000)][:4000] ** 2))
    assert np.array_equal(
        clip(np.random.default_rng(7), 4.0, ["dog"]).wave, clip(np.random.default_rng(7), 4.0, ["dog"]).wave
    )


# ---- bound records ---------------------------------------------------------------------------------------------------------


def test_answers_texts_and_captions_become_tokens() -> None:
    part = tiny.bound()
    tokens = part.tokens[2]
    assert part.tokens[2].answer == (*tiny.lm().tokens("high tone"), 1)
    assert tokens.caption[0] == tiny.text_tokenizer().cls_token_id
    batch = part.collate([2, 0], [part.sample(i, epoch=None, seed=0) for i in (2, 0)])
    assert batch.target["answer"].tolist()[1] == [*tiny.lm().tokens("low"), 1] + [-100] * 6
    assert batch.target["tag"].tolist() == [0, 1]


def test_long_texts_keep_the_end_of_instructions_and_the_beginning_of_answers() -> None:
    from pt_audio.bound import Limits

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


def test_identity_follows_content_not_names(tmp_path: Path) -> None:
    one, two = tone(tmp_path / "a" / "x.wav"), tone(tmp_path / "b" / "y.wav")
    assert one.read_bytes() == two.read_bytes()
    found = []
    for path in (one, two):
        lines = tmp_path / f"{path.stem}.jsonl"
        lines.write_text(json.dumps({"audio": str(path.relative_to(tmp_path)), "text_input": "q", "text_output": "a"}))
        found.append(load_audio(str(lines), DataOptions(), 0)["train"].identity())
    assert found[0] == found[1]
    tone(two, 900)
    assert load_audio(str(tmp_path / "y.jsonl"), DataOptions(), 0)["train"].identity() != found[0]
