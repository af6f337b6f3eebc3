"""CoOp's split files (`split_zhou_*.json`): for train, val and test a list of [path, label number, class name], as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pt_core.errors import DataError

from pt_vision.data.parts import ROLES, Found, Part, listed, short

FORM = "it has to hold lists of [path, label number, class name] under train, val and test"


def read_listed_splits(path: Path, wanted: Sequence[str]) -> Found:
    """The parts of a split file; its label numbers say the order of the classes. Paths are relative to the file's folder or to one folder
    in it, as CoOp's data sets have them (`images/`, `jpg/`, `101_ObjectCategories/` ...).

    Raises:
        DataError: another form, a class with two numbers or two names, a missing number, or no folder that holds the images.
    """
    if wanted:
        raise DataError(f"{path} has no columns besides path and class; leave out --where and --group-column")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {short(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("train"), list) or not set(content) <= set(ROLES):
        raise DataError(f"{path} is no split file: {FORM}")
    rows = {role: [_row(path, role, row) for row in content[role]] for role in ROLES if content.get(role)}
    if "train" not in rows:
        raise DataError(f"{path} lists no image under train")
    classes = _classes(path, [row for part in rows.values() for row in part])
    root = _root(path, rows["train"][0][0])
    parts = {
        role: Part([root / name for name, _, _ in part], [name for name, _, _ in part], [text for _, _, text in part])
        for role, part in rows.items()
    }
    return Found(parts, classes)


def _row(path: Path, role: str, row: Any) -> tuple[str, int, str]:
    match row:
        case [str(name), int(number), str(text)] if text.strip() and number >= 0 and not isinstance(number, bool):
            return name, number, text.strip()
    raise DataError(f"{path} has the entry {str(row)[:100]} under {role}: {FORM}")


def _classes(path: Path, rows: Sequence[tuple[str, int, str]]) -> list[str]:
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for name, number, text in rows:
        if names.setdefault(number, text) != text:
            raise DataError(f"{path}: label {number} is {names[number]!r} and {text!r} (image {name!r})")
        if numbers.setdefault(text, number) != number:
            raise DataError(f"{path}: class {text!r} has the labels {numbers[text]} and {number} (image {name!r})")
    absent = [str(number) for number in range(min(len(names) + 1, max(names))) if number not in names]
    if absent:
        raise DataError(f"{path}: no image has label {listed(absent)}, though the largest is {max(names)}")
    return [names[number] for number in sorted(names)]


def _root(path: Path, first: str) -> Path:
    """The folder that paths are relative to, told by the first image."""
    beside = [path.parent, *sorted(folder for folder in path.parent.iterdir() if folder.is_dir())]
    found = [folder for folder in beside if (folder / first).is_file()]
    if len(found) != 1:
        where = " and ".join(folder.name for folder in found) if found else f"neither {path.parent} nor a folder in it"
        raise DataError(f"{path}: image {first!r} lies in {where}; put the one image folder beside the split file")
    return found[0]
