"""The command line inside the test's own process: what a user types, and what comes back."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pt_core.run.command import cli
from pt_vision.modality import Vision


class Outcome(NamedTuple):
    """Exit status and what was printed."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what was wrong."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]

    def json(self) -> Any:
        return json.loads(self.out)


def called(main: Callable[[list[str]], object], *words: object) -> Outcome:
    """A command line with these words. An exception that is not a user's mistake comes through, as the traceback would."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return Outcome(status, out.getvalue(), err.getvalue())


def typed(modality: Any, *words: object) -> Outcome:
    """`PACKAGE WORDS`."""
    return called(partial(cli.main, modality), *words)


def pt_vision(*words: object) -> Outcome:
    """`pt-vision WORDS`."""
    return typed(Vision, *words)


def good(*arguments: str | Path) -> Outcome:
    """`pt_vision` where nothing may go wrong."""
    outcome = pt_vision(*arguments)
    assert outcome.status == 0, outcome.err[-2000:]
    return outcome


def refused(message: str, *arguments: str | Path) -> Outcome:
    """A mistake: exit status 2, one line per problem and nothing like a traceback, and `message` (a regex) in one of them."""
    outcome = pt_vision(*arguments)
    assert outcome.status == 2, (outcome.status, outcome.out[-500:], outcome.err[-500:])
    assert outcome.errors, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.rstrip().splitlines()[-len(outcome.errors) :] == [f"error: {line}" for line in outcome.errors]
    assert any(re.search(message, line) for line in outcome.errors), outcome.errors
    return outcome


def content(folder: Path) -> dict[str, bytes]:
    """Relative name -> bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
