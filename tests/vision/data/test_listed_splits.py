"""CoOp's split files: parts, class order, image folder, and what is wrong with one."""

import json

import pytest
from PIL import Image
from pt_core.errors import DataError
from pt_vision.data.load import load_images

ROWS = {
    "train": [["a/1.png", 1, "face"], ["b/2.png", 0, "yellow lily"], ["a/3.png", 10 - 8, "ant"]],
    "val": [["a/4.png", 1, "face"]],
    "test": [["b/5.png", 0, "yellow lily"], ["a/6.png", 2, "ant"]],
}


def write(folder, rows=ROWS, images="images"):
    for number, (name, _, _) in enumerate(row for part in rows.values() for row in part):
        path = folder / images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number * 20, 0, 0)).save(path)
    path = folder / "split_zhou_Things.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("images", ["images", "."])
def test_a_split_file_is_read_as_it_is(tmp_path, images):
    parts = load_images(str(write(tmp_path, images=images)))
    assert {role: len(part) for role, part in parts.items()} == {"train": 3, "val": 1, "test": 2}
    assert list(parts["train"].classes) == ["yellow lily", "face", "ant"]  # by number, not by name
    assert list(parts["train"].labels) == [1, 0, 2]
    assert list(parts["test"].labels) == [0, 2]
    assert list(parts["test"].ids) == ["b/5.png", "a/6.png"]
    assert parts["train"].picture(2).getpixel((0, 0)) == (40, 0, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["a/9.png", 1, "ant"], "label 1 is 'face' and 'ant'"),
        (["a/9.png", 3, "ant"], "class 'ant' has the labels 2 and 3"),
        (["a/9.png", 5, "elk"], "no image has label 3, 4"),
        (["a/9.png", "x", "elk"], "has the entry"),
        (["a/9.png", 3, " "], "has the entry"),
    ],
)
def test_what_is_wrong_names_the_class(tmp_path, change, said):
    path = write(tmp_path)
    path.write_text(json.dumps({**ROWS, "test": [*ROWS["test"], change]}))
    with pytest.raises(DataError, match=said):
        load_images(str(path))


def test_other_json_and_a_missing_folder_are_told(tmp_path):
    path = write(tmp_path)
    (tmp_path / "images").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    with pytest.raises(DataError, match="put the one image folder beside"):
        load_images(str(path))
    path.write_text('{"annotations": []}')
    with pytest.raises(DataError, match="is no split file"):
        load_images(str(path))
