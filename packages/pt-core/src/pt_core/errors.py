"""The few exception types a user meets.

Every one of them is a `UserError`: the command line prints its single line and exits with status 2. Anything else that escapes
is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

MAX_NAME = 1000
"""Characters of a class name."""
NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no class name may hold: control characters, halves of characters, and ends of lines and paragraphs."""


class UserError(Exception):
    """Something the user can mend. The message is one line: what was wrong (naming the value) and what to do."""


class ConfigError(UserError):
    """One or more options are unknown, ill-typed, out of range or contradictory; all of them are listed."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


class DataError(UserError):
    """The data cannot be used as given (missing column, unreadable file, class too small ...)."""


class ArtifactError(UserError):
    """A tuned artifact or a checkpoint cannot be read: damaged, too new, or not one of ours."""


class BackboneMismatch(ArtifactError):
    """The artifact was tuned on another backbone."""


class NonFiniteError(UserError):
    """The loss or a gradient became NaN or infinite; the run stopped and kept its last good checkpoint."""


class LostProcess(UserError):
    """Another process of the run is gone; the command line exits with status 1."""


class MissingExtra(UserError):
    """An optional dependency is needed; the message holds the exact install command."""


def problem_of(check: Callable[..., object], *arguments: Any) -> str | None:
    """What a check that raises has to say, or None where it passes."""
    try:
        check(*arguments)
    except UserError as error:
        return str(error)
    return None


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, or an empty string.

    >>> "unknown option 'promt_length'" + nearest("promt_length", ["prompt_length", "lr"])
    "unknown option 'promt_length' (did you mean 'prompt_length'?)"
    """
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""


def unless_known(what: str, name: str, known: Iterable[str]) -> str | None:
    """That no `what` has this name, with the nearest and all known names; None where one has.

    >>> unless_known("built-in data", "shape", ("shapes",))
    "no built-in data 'shape' (did you mean 'shapes'?); known: shapes"
    """
    names = list(known)
    return None if name in names else f"no {what} {name!r}{nearest(name, names)}; known: {', '.join(names)}"


def name_problem(names: Iterable[str], what: str = "class name") -> str | None:
    """What is wrong with the first name that cannot be kept whole in tables, cards and pages; None where all can.

    >>> name_problem(["cat", "do\\tg"])
    "class name 'do\\\\tg' holds the control character '\\\\t'; rename it"
    """
    for name in names:
        shown = repr(name) if len(name) <= 60 else f"{name[:60]!r}..."
        if len(name) > MAX_NAME:
            return f"{what} {shown} has {len(name):,} characters, more than {MAX_NAME:,}; give it a shorter one"
        odd = next((sign for sign in name if unicodedata.category(sign) in NOT_IN_NAMES), None)
        if odd is not None:
            return f"{what} {shown} holds the control character {odd!r}; rename it"
    return None


def require(module: str, extra: str) -> object:
    """Import an optional module.

    Raises:
        MissingExtra: it is not installed; names the command that installs it.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtra(f"{module!r} is not installed; run: pip install '{extra}'") from None
