"""Records from JSON lines, tables and folders: splits by clip, identity, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pt_audio.data.lines import parse_line
from pt_audio.data.load import load_audio
from pt_audio.options import DataOptions
from pt_core.errors import ConfigError, DataError

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


def test_official_lists_of_parts_are_not_passed_over(tmp_path: Path) -> None:
    root = folder(tmp_path / "clips")
    (root / "testing_list.txt").write_text("low/0.wav\n")
    with pytest.raises(
        DataError, match=r"official lists of its parts \(testing_list.txt\), which a random split would mix"
    ):
        load_audio(str(root), DataOptions(tasks=("tagging",)), 0)


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
