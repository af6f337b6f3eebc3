"""Real text that needs no download: the documentation strings of Python's own standard library.

The text is read from the running interpreter, so it differs a little between Python versions; nothing is copied into this package.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sysconfig
from collections import Counter, deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pt_core.errors import DataError

HELD_OUT = (
    *("asyncio", "decimal", "email", "turtle", "ipaddress", "statistics"),
    *("tarfile", "smtplib", "wave", "pathlib", "datetime", "threading"),
)
"""Modules that the built-in language model never read: built-in data are drawn from them."""
PUBLIC_NAME = {"_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime", "_strptime": "datetime"}
SKIPPED = frozenset(("site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__", "distutils"))

BLOCKS = frozenset(("body", "handlers", "orelse", "finalbody", "cases"))
"""Fields of syntax nodes that hold statements."""


@cache
def module_files() -> dict[str, list[Path]]:
    """Public module name -> its source files in the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    found: dict[str, list[Path]] = {}
    for path in sorted(files):
        top = path.relative_to(root).parts[0].removesuffix(".py")
        found.setdefault(PUBLIC_NAME.get(top, top.lstrip("_")), []).append(path)
    return found


def docstrings(path: Path) -> Iterator[str]:
    """The documentation strings of a source file, in the order of the syntax tree."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    waiting: deque[ast.AST] = deque([tree])  # `ast.walk` without expressions, which hold no documentation
    while waiting:
        node = waiting.popleft()
        for name in node._fields:
            if name in BLOCKS:
                waiting.extend(getattr(node, name))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text


def topics() -> dict[str, str]:
    """The language reference that `help()` shows: topic -> text."""
    from pydoc_data.topics import topics as found

    return {str(name): str(text) for name, text in found.items()}


def sentences(text: str, shortest: int = 5, longest: int = 30) -> Iterator[str]:
    """Sentences of prose with `shortest` to `longest` words; code, tables and doctests are left out."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines()]
        if any(line.startswith((">>>", "...", "+-", "|", "==", "--", "#")) for line in lines):
            continue
        flat = re.sub(r"\s+", " ", " ".join(lines)).strip()
        for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", flat):
            words = part.split()
            plain = sum(word.strip(".,;:()'\"`").isalpha() for word in words)
            if shortest <= len(words) <= longest and plain >= 0.6 * len(words):
                yield part


@cache
def module_sentences(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Module -> its distinct sentences, without those that occur in two of the modules; in a fixed shuffled order.

    Raises:
        DataError: the standard library of this interpreter has no source of a module.
    """
    files = module_files()
    missing = sorted(set(names) - set(files))
    if missing:
        raise DataError(f"this Python has no source of the standard library's {missing[0]!r}; built-in text needs it")
    texts = {name: [s for path in files[name] for doc in docstrings(path) for s in sentences(doc)] for name in names}
    times = Counter(sentence for found in texts.values() for sentence in set(found))
    return {
        name: sorted({s for s in found if times[s] == 1}, key=lambda s: hashlib.sha256(s.encode()).digest())
        for name, found in texts.items()
    }


def window(text: str, word: str, count: int, offset: int | None = None) -> str:
    """`count` neighbouring words of a text around the one that holds `word`: in the middle, or `offset` words before it."""
    parts = text.split()
    place = next(number for number, part in enumerate(parts) if word in part.lower())
    start = max(0, min(place - (count // 2 if offset is None else offset), len(parts) - count))
    return " ".join(parts[start : start + count])
