"""Parts of files as clips: what is heard from `start` to `end` is exactly those samples, and nothing beyond the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pt_audio.data.inputs import input_records
from pt_audio.data.load import load_audio
from pt_audio.options import DataOptions
from pt_core.errors import DataError

RATE = 1000


def ramp(path: Path, seconds: float = 3.0) -> Any:
    """A file whose every sample tells where it stands."""
    values = (np.arange(int(seconds * RATE)) / 2**13).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, RATE, subtype="FLOAT")
    return torch.from_numpy(values)


def table(folder: Path, text: str) -> str:
    (folder / "m.csv").write_text(text)
    return str(folder / "m.csv")


def lines(folder: Path, *rows: dict[str, Any]) -> str:
    given = [{"text_input": "what?", "text_output": "low", **row} for row in rows]
    (folder / "r.jsonl").write_text("\n".join(map(json.dumps, given)))
    return str(folder / "r.jsonl")


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_line_reads_its_part_of_the_file(name: str, tmp_path: Path) -> None:
    wave = ramp(tmp_path / "a.wav")
    if name != "a.wav":
        soundfile.write(tmp_path / name, wave.numpy(), RATE, subtype="PCM_24")
    path = lines(
        tmp_path,
        {"audio": name, "start": 0.5, "end": 1.25},
        {"audio": name, "start": 2},
        {"audio": name, "end": 0.25},
        {"audio": name},
        {"audio": name, "start": 0.5, "end": 1.25, "text_output": "high"},
        {"audio": [name, name], "text_input": ["x", "y"], "start": [0, None], "end": [None, 1]},
        {"audio": name, "start": 2.5, "end": 3.2},  # a table that rounds
    )
    found = load_audio(path, DataOptions(), 0)["train"]
    assert [record.clips for record in found.records] == [(0,), (1,), (2,), (3,), (0,), (4, 5), (6,)]
    spans = [(500, 1250), (2000, 3000), (0, 250), (0, 3000), (0, 3000), (0, 1000), (2500, 3000)]
    for clip, (first, last) in zip(found.clips, spans, strict=True):
        assert clip.seconds == (last - first) / RATE
        torch.testing.assert_close(clip.read(RATE), wave[first:last], rtol=0, atol=1e-6)
    assert found.clips[0].name == f"{tmp_path / name}[0.5-1.25s]"
    assert len(set(found.groups)) == 1, "parts of a file lie on one side"
    asked = input_records([path], (), "error")
    assert torch.equal(asked.clips[0].read(RATE), found.clips[0].read(RATE))


def test_other_parts_are_other_data(tmp_path: Path) -> None:
    wave = ramp(tmp_path / "a.wav")
    digests = []
    for end in (1.0, 1.5):
        path = lines(tmp_path, {"audio": "a.wav", "start": 0.5, "end": end})
        digests.append(load_audio(path, DataOptions(), 0)["train"].identity())
    soundfile.write(tmp_path / "a.wav", -wave.numpy(), RATE, subtype="FLOAT")
    digests.append(load_audio(path, DataOptions(), 0)["train"].identity())
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"start": 2, "end": 1}, r"r.jsonl:1: 2 to 1 is no stretch of .*a.wav \(3.00 s\)"),
        ({"start": 1, "end": 9}, "1 to 9 is no stretch of"),
        ({"start": 3.2}, "3.2 to 3 is no stretch of"),
        ({"start": -1}, "'start' must be a number of seconds, it is '-1'"),
        ({"end": "1"}, "'end' must be a number of seconds, it is '1'"),
        ({"end": True}, "'end' must be a number of seconds, it is 'True'"),
        ({"end": float("nan")}, "'end' must be a number of seconds, it is 'nan'"),
        ({"start": [0, 1]}, "has 1 clips and 2 'start'; give one per clip"),
        ({"audio": ["a.wav", "a.wav"], "text_input": ["x", "y"], "end": 1}, "has 2 clips and 1 'end'; give one per clip"),
        ({"begin": 1}, "unknown key 'begin'"),
    ],
)  # fmt: skip
def test_times_that_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    ramp(tmp_path / "a.wav")
    with pytest.raises(DataError, match=message):
        load_audio(lines(tmp_path, {"audio": "a.wav", **row}), DataOptions(), 0)


def test_a_row_of_a_table_is_its_part_of_the_file(tmp_path: Path) -> None:
    waves = {name: ramp(tmp_path / f"{name}.wav") for name in "abcdef"}
    rows = [
        f"{name}.wav,{start},{start + 0.5},{label}" for name in waves for start, label in ((0, "dog"), (1.5, "bell"))
    ]
    path = table(tmp_path, "file,start,end,label\n" + "\n".join(rows) + "\na.wav,2,,dog\n")
    found = load_audio(path, DataOptions(), 0)
    seen = 0
    for part in found.values():
        for record in part.records:
            clip = part.clips[record.clips[0]]
            assert clip.path is not None
            first = clip.start / RATE
            assert record.answer == {0.0: "dog", 1.5: "bell", 2.0: "dog"}[first]
            wave = waves[clip.path.stem]
            last = 3.0 if first == 2.0 else first + 0.5
            assert torch.equal(clip.read(RATE), wave[round(first * RATE) : round(last * RATE)])
            seen += 1
    assert seen == 13
    files = [{clip.path for clip in part.clips} for part in found.values()]
    assert sum(map(len, files)) == 6, "no file on two sides"
    whole = load_audio(path, DataOptions(whole_files=True), 0)
    assert {record.answer for part in whole.values() for record in part.records} == {"dog and bell"}
    assert {clip.seconds for part in whole.values() for clip in part.clips} == {3.0}


def test_times_that_are_not_of_the_file_name_the_flag(tmp_path: Path) -> None:
    """UrbanSound8K's columns: start and end of its slices are those of a recording that is not there."""
    ramp(tmp_path / "a.wav", 0.5)
    ramp(tmp_path / "b.wav", 0.4)
    path = table(tmp_path, "slice_file_name,fsID,start,end,class\na.wav,7,4.0,4.5,dog\nb.wav,7,8.1,8.5,bell\n")
    options = {"file_column": "slice_file_name", "val_fraction": 0.5, "test_fraction": 0.0}
    with pytest.raises(DataError, match=r"m.csv:2: 4 to 4.5 is no stretch of .*--whole-files leaves them out"):
        load_audio(path, DataOptions(**options), 0)  # type: ignore[arg-type]
    found = load_audio(path, DataOptions(**options, whole_files=True), 0)  # type: ignore[arg-type]
    assert sorted(clip.seconds for part in found.values() for clip in part.clips) == [0.4, 0.5]
    path = table(tmp_path, "file,start,end,onset,offset,label\na.wav,0,0.4,0,0.1,dog\n")
    with pytest.raises(DataError, match="columns onset and offset of events, and 'start' of parts of files"):
        load_audio(path, DataOptions(), 0)
    path = table(tmp_path, "file,start,end,label\na.wav,x,1,dog\n")
    with pytest.raises(DataError, match="m.csv:2: 'start' must be a number of seconds, it is 'x'"):
        load_audio(path, DataOptions(), 0)
