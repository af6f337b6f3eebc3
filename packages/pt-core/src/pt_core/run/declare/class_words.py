"""The words that stand for classes in a text: those of a file, or a class's name told into words."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_core.errors import ConfigError, name_problem, nearest

FLAG = "--class-names"
FORM = "a JSON object or a CSV or TSV of two columns (label, text), or one text a line in the order of the classes"
SHOWN = 5
"""Labels that a message names."""


def told(name: str) -> str:
    """A class's name in words: underscores become spaces, and capitals inside a word begin a new one.

    >>> told("forest_path"), told("AnnualCropLand"), told("MRIScan"), told("Boeing 737-200")
    ('forest path', 'Annual Crop Land', 'MRI Scan', 'Boeing 737-200')
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name.replace("_", " "))
    return " ".join(spaced.split()) or name


def read_words(path: Path, labels: Sequence[str]) -> dict[str, str]:
    """Label -> text, for every class of the data.

    Args:
        labels: the classes of the data, in order.

    Raises:
        ConfigError: unreadable, a label that the data lack, one without a text or with two, or a text of two labels; names the label.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
        kind = path.suffix.lower()
        if kind == ".json":
            pairs = _from_json(content)
        elif kind in (".csv", ".tsv"):
            pairs = from_table(content, "," if kind == ".csv" else "\t")
        else:
            pairs = _from_lines(content, labels)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise ConfigError(f"{FLAG} {path} is not readable: {error}; give {FORM}") from None
    words = checked_words(path, pairs)
    unknown = [f"{label!r}{nearest(label, labels)}" for label in words if label not in set(labels)]
    if unknown:
        raise ConfigError(f"{FLAG} {path} names classes that the data lack: {_listed(unknown)}")
    missing = [repr(label) for label in labels if label not in words]
    if missing:
        count = f"{len(words)} texts for {len(labels)} classes"
        raise ConfigError(f"{FLAG} {path}: {count}; none for {_listed(missing)}")
    return {label: words[label] for label in labels}


def checked_words(path: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Label -> text from pairs.

    Raises:
        ConfigError: an empty or odd text, a label twice, or a text of two labels.
    """
    words: dict[str, str] = {}
    owners: dict[str, str] = {}
    for label, text in pairs:
        if not text.strip():
            raise ConfigError(f"{FLAG} {path}: the text of class {label!r} is empty")
        if label in words:
            raise ConfigError(f"{FLAG} {path}: class {label!r} is there twice ({words[label]!r} and {text!r})")
        if text in owners:
            raise ConfigError(f"{FLAG} {path}: classes {owners[text]!r} and {label!r} have the same text {text!r}")
        words[label], owners[text] = text, label
    odd = name_problem(words.values(), "text")
    if odd is not None:
        raise ConfigError(f"{FLAG} {path}: {odd}")
    return words


def _from_json(content: str) -> list[tuple[str, str]]:
    found: Any = json.loads(content, object_pairs_hook=list)  # an object with a key twice keeps both
    pairs = [pair for pair in found if isinstance(pair, tuple)] if isinstance(found, list) else []
    if not pairs or len(pairs) != len(found) or not all(isinstance(text, str) for _, text in pairs):
        raise ValueError("it is not an object of label: text")
    return [(label, text.strip()) for label, text in pairs]


def from_table(content: str, separator: str) -> list[tuple[str, str]]:
    """Rows (label, text) of a table with or without a header.

    Raises:
        ValueError: a row of another length.
    """
    rows = [row for row in csv.reader(content.splitlines(), delimiter=separator) if any(cell.strip() for cell in row)]
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong is not None:
        raise ValueError(f"the row {separator.join(wrong)[:100]!r} has {len(wrong)} columns, not 2")
    if rows and [cell.strip().lower() for cell in rows[0]] in (["label", "text"], ["class", "text"], ["label", "name"]):
        rows = rows[1:]
    return [(label.strip(), text.strip()) for label, text in rows]


def _from_lines(content: str, labels: Sequence[str]) -> list[tuple[str, str]]:
    """A list in the order of the classes. Where it is shorter or longer, lines that read as a label tell which one has none."""
    lines = [line.strip() for line in content.rstrip().split("\n")]
    if len(lines) == len(labels):
        return list(zip(labels, lines, strict=True))
    written = {_plain(line) for line in lines}
    lost = [repr(label) for label in labels if _plain(label) not in written]
    beyond = [repr(line) for line in lines if _plain(line) not in {_plain(label) for label in labels}]
    short = len(lines) < len(labels)
    if short and len(lost) != len(labels) - len(lines):  # the lines are other words: only their number tells
        lost = [repr(label) for label in labels[len(lines) :]]
    told_of = f"no line for class {_listed(lost)}" if short else f"no class for the line {_listed(beyond)}"
    raise ValueError(f"{len(lines)} lines for {len(labels)} classes: {told_of}")


def _plain(text: str) -> str:
    return told(text).casefold()


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def words_note(labels: Sequence[str], words: Mapping[str, str]) -> str | None:
    """The sentence that says once how names are read where they are not read as they are written."""
    changed = [f"{label!r} as {words[label]!r}" for label in labels if words[label] != label]
    return f"{len(changed)} of {len(labels)} class names are read in words: {_listed(changed)}" if changed else None
