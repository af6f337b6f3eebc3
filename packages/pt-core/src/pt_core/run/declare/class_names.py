"""Class names given on the command line, for methods that need no data and for tuned methods that can predict other classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pt_core.errors import ConfigError, name_problem
from pt_core.run.declare.class_words import checked_words, from_table

FORMS = (
    "give a file (a name per line, CSV or TSV of name and text, or JSON: a list of names, or name -> texts), or a,b,c"
)
BLANKS = " \t\r\n"
"""Stripped from the ends of names."""
SHOWN = 100
"""Characters of a wrong value in a message."""


@dataclass(frozen=True)
class ClassNames:
    """Names in index order, and texts that describe a class where there are some."""

    names: Sequence[str]
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    """Name -> the text that stands for it, where the file gives one each."""


def read_class_names(given: str) -> ClassNames:
    """Class names from a file or a list with commas.

    Raises:
        ConfigError: no such file, fewer than 2 names, an empty name, a name twice, or JSON of another form.
    """
    path, shown = Path(given), given if len(given) <= SHOWN and given.isprintable() else _short(given)
    try:
        is_file = path.is_file()
    except OSError:  # a list of names that is too long for a path
        is_file = False
    if is_file:
        kind = path.suffix.lower()
        columns = kind in (".csv", ".tsv")
        found = _from_json(path) if kind == ".json" else _from_columns(path) if columns else ClassNames(_lines(path))
    elif "," in given:
        found = ClassNames([name.strip(BLANKS) for name in given.split(",")])
    else:
        raise ConfigError(f"--class-names {shown}: no such file; {FORMS}")
    names = list(found.names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--class-names {shown}: {_short(twice)} is there twice")
    if len(names) < 2 or not all(names):
        raise ConfigError(f"--class-names {shown}: {len(names)} names, some empty or fewer than 2; {FORMS}")
    odd = name_problem(names)
    if odd is not None:
        raise ConfigError(f"--class-names {shown}: {odd}")
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--class-names {path} is not readable text: {error}") from None
    # Not splitlines: it also ends lines at characters that a name must not hold, which would then pass as two names.
    return [line.strip(BLANKS) for line in text.split("\n") if line.strip(BLANKS)]


def _from_columns(path: Path) -> ClassNames:
    """A table of names alone, or of names and texts."""
    lines = _lines(path)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    if not any(separator in line for line in lines):
        return ClassNames(lines)
    try:
        words = checked_words(path, from_table("\n".join(lines), separator))
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"--class-names {path} is not readable: {error}; {FORMS}") from None
    return ClassNames(list(words), {name: [text] for name, text in words.items()}, words)


def _short(text: str) -> str:
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def _from_json(path: Path) -> ClassNames:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--class-names {path} is not readable JSON: {error}") from None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return ClassNames(content)
    if isinstance(content, dict):
        texts = {name: [text] if isinstance(text, str) else text for name, text in content.items()}
        if all(
            isinstance(some, list) and some and all(isinstance(text, str) for text in some) for some in texts.values()
        ):
            single = all(isinstance(text, str) for text in content.values())
            return ClassNames(list(texts), texts, checked_words(path, list(content.items())) if single else {})
    raise ConfigError(f"--class-names {path} holds another form; {FORMS}")
