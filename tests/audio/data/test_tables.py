"""Tables of labels: weak and strong ones, parts, several labels per clip, and rows that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pt_audio.data.lines import parse_line, read_lines
from pt_audio.data.load import load_audio
from pt_audio.options import DataOptions
from pt_core.errors import DataError

from tests.audio.data.test_load import tone


def clips(folder: Path, names: str = "abcdefgh") -> None:
    for number, name in enumerate(names):
        tone(folder / f"{name}.wav", 200 + 40 * number, seed=number)


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_files_and_labels(suffix: str, separator: str, tmp_path: Path) -> None:
    clips(tmp_path / "audio")
    rows = [("file", "label"), *((f"audio/{n}.wav", "dog_bark" if n in "aceg" else "01") for n in "abcdefgh")]
    table = tmp_path / f"meta.{suffix}"
    table.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    found = load_audio(str(table), DataOptions(test_fraction=0.25, val_fraction=0.34), 0)
    assert found["train"].classes == ("01", "dog bark")
    assert {role: len(part) for role, part in found.items()} == {"train": 4, "val": 2, "test": 2}
    for part in found.values():
        for record in part.records:
            name = part.clips[record.clips[0]].path.stem
            assert record.answer == record.label == ("dog bark" if name in "aceg" else "01")


def test_the_columns_of_a_published_table_with_its_parts(tmp_path: Path) -> None:
    """ESC-50's columns, its sounds in a folder beside, and a column of parts."""
    clips(tmp_path / "audio")
    (tmp_path / "meta").mkdir()
    table = tmp_path / "meta" / "esc50.csv"
    parts = dict(zip("abcdefgh", ["train"] * 4 + ["validation"] * 2 + ["test"] * 2, strict=True))
    lines = [
        f"{n}.wav,{i % 5 + 1},{i % 2},False,{'rain' if i % 2 else 'sea_waves'},{n},A,{parts[n]}"
        for i, n in enumerate(parts)
    ]
    table.write_text("filename,fold,target,esc10,category,src_file,take,split\n" + "\n".join(lines) + "\n")
    found = load_audio(str(table), DataOptions(audio_folder=str(tmp_path / "audio")), 0)
    names = {role: [clip.path.stem for clip in part.clips] for role, part in found.items()}
    assert names == {"train": list("abcd"), "val": list("ef"), "test": list("gh")}
    assert found["train"].classes == ("rain", "sea waves")
    by_number = load_audio(
        str(table), DataOptions(audio_folder=str(tmp_path / "audio"), label_column="target", split_column="split"), 0
    )
    assert by_number["train"].classes == ("0", "1")
    with pytest.raises(DataError, match="no column 'categori'.*did you mean 'category'"):
        load_audio(str(table), DataOptions(label_column="categori"), 0)
    with pytest.raises(DataError, match=r"esc50.csv:2: audio file .*meta/a.wav does not exist"):
        load_audio(str(table), DataOptions(), 0)


def test_a_clip_of_several_rows_has_several_labels(tmp_path: Path) -> None:
    clips(tmp_path)
    rows = [f"{n}.wav,dog\n{n}.wav,bell\n{n}.wav,dog" for n in "abcdefgh"]
    (tmp_path / "m.csv").write_text("path,class\n" + "\n".join(rows) + "\n")
    found = load_audio(str(tmp_path / "m.csv"), DataOptions(test_fraction=0), 0)
    assert {record.answer for part in found.values() for record in part.records} == {"dog and bell"}
    assert found["train"].tags == ("bell", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.wav,dog\nb.wav,\n", "m.csv:3: column 'label' is empty"),
        ("file,label\na.wav,nan\n", r"m.csv:2: column 'label' is empty \('nan'\)"),
        ("file,label\na.wav,NA\n", "m.csv:2: column 'label' is empty"),
        ("file,label\n,dog\n", "m.csv:2: column 'file' is empty"),
        ("file,label\na.wav\n", "m.csv:2: column 'label' is empty"),
        ("file,label\na.wav,_\n", "m.csv:2: label '_' names nothing"),
        ("file,onset,offset,label\na.wav,0,0.1,\n", "m.csv:2: column 'label' is empty"),
        ("file,onset,offset,label\na.wav,,0.1,dog\n", "m.csv:2:  to 0.1 is no stretch"),
        ("file,label\na.wav,dog,3\n", "more cells than its first line has names"),
        ("file,label,split\na.wav,dog,tain\n", r"m.csv:2: part 'tain' is unknown \(did you mean 'train'\?\)"),
        ("file,label,split\na.wav,dog,train\na.wav,dog,test\n", "m.csv:3: a.wav is in the parts train and test"),
        ("file,label,split\na.wav,dog,test\n", "no row of the part train in column 'split'"),
        ("file,sound\na.wav,dog\n", "no column 'label'; it has: file, sound; name one with --label-column"),
        ("file,label\n", "has no rows"),
        ("", "cannot be read as CSV"),
    ],
)
def test_rows_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    clips(tmp_path, "ab")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_audio(str(tmp_path / "m.csv"), DataOptions(), 0)


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_with_a_table_per_part(inside: bool, tmp_path: Path) -> None:
    """train.csv and test.csv beside the sounds, or beside folders train and test of them; class folders do not hide the tables."""
    parts = {"train": "abcdef", "test": "gh"}
    for role, names in parts.items():
        home = tmp_path / role if inside else tmp_path
        clips(home, names)
        rows = [f"{n}.wav,{'ab'[i % 2]},{i}" for i, n in enumerate(names)]
        (tmp_path / f"{role}.csv").write_text("\n".join(["fname,label,part", *rows]) + "\n")
    clips(tmp_path / "cat", "xy")
    found = load_audio(str(tmp_path), DataOptions(val_fraction=0.34), 0)
    names = {role: {clip.path.stem for clip in part.clips} for role, part in found.items()}
    assert names["test"] == set("gh")
    assert names["train"] | names["val"] == set("abcdef")
    assert len(names["val"]) == 2
    assert [record.answer for record in found["test"].records] == ["a", "b"]
    (tmp_path / "validation.tsv").write_text("fname\tlabel\n" + ("train/" if inside else "") + "a.wav\ta\n")
    with pytest.raises(
        DataError, match=r"a.wav is in the parts (train and val|val and train); a clip lies on one side"
    ):
        load_audio(str(tmp_path), DataOptions(), 0)
    with pytest.raises(DataError, match="--split-column part: .* has a table for each part"):
        load_audio(str(tmp_path), DataOptions(split_column="part"), 0)
    (tmp_path / "val.csv").write_text("fname,label\nx.wav,a\n")
    with pytest.raises(DataError, match=r"has val.csv and validation.tsv for the part val; leave one"):
        load_audio(str(tmp_path), DataOptions(), 0)


# ---- JSON lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"label": ["pos", "x"]}, r"x.jsonl:3: 'label' must be the name of one class, it is \"\['pos', 'x'\]\""),
        ({"label": ""}, "'label' must be the name of one class"),
        ({"label": float("nan")}, "'label' must be the name of one class, it is 'nan'"),
        ({"label": True}, "'label' must be the name of one class"),
        ({"id": ["a"]}, "'id' must be a text or a whole number"),
        ({"text_output": float("nan")}, "'text_output' must be a text, it is 'nan'"),
        ({"task": ["tagging"]}, r"task \['tagging'\]"),
        ({"text_output": "\ud800"}, r"half of a surrogate pair.*\\ud800"),
    ],
)
def test_values_of_another_kind(content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_line({"audio": "a", "text_input": "x", **content}, "x.jsonl:3")


def test_a_number_may_name_a_class() -> None:
    assert parse_line({"audio": "a", "text_input": "x", "label": 7}, "x")[1]["label"] == "7"
    assert parse_line({"audio": "a", "text_input": "x"}, "x")[1]["label"] is None


def test_lines_end_where_json_lines_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\ufeff" + json.dumps({"text": "one\u2028line"}, ensure_ascii=False) + "\r\n{}\n", encoding="utf-8")
    assert [content for _, content in read_lines(path)] == [{"text": "one\u2028line"}, {}]
    for text in ("[" * 100_000, "1" * 5000, "{"):
        path.write_text(text)
        with pytest.raises(DataError, match="x.jsonl:1 is not JSON"):
            read_lines(path)


def test_lines_may_lie_elsewhere_than_their_sounds(tmp_path: Path) -> None:
    clips(tmp_path / "sounds", "ab")
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "r.jsonl"
    path.write_text(json.dumps({"audio": "b.wav", "text_input": "what?", "text_output": "low"}) + "\n")
    found = load_audio(str(path), DataOptions(audio_folder=str(tmp_path / "sounds")), 0)["train"]
    assert [clip.path for clip in found.clips] == [tmp_path / "sounds" / "b.wav"]
