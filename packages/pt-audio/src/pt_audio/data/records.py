"""Records: what is asked about which clips.

A record is `{"audio": clip or [clips], "text_input": text or [one text per clip], "text_output": answer}`, the form of the published
code; JSON lines hold the same with paths. `task` names the kind of question, and for few classes `label` the class that is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pt_core.errors import ConfigError, nearest

EMPTY = frozenset({"", "nan", "na", "<na>", "n/a", "#n/a"})
"""Texts, in lower case, by which programs write an empty cell."""
TASKS = ("tagging", "captioning", "question", "localisation", "retrieval", "few_shot", "reasoning")
WEIGHTS = {
    "tagging": 1.0,
    "captioning": 1.0,
    "question": 0.1,
    "localisation": 0.45,
    "retrieval": 0.45,
    "few_shot": 0.5,
    "reasoning": 0.5,
}
"""Sampling weights of stage 2; the published ones, but for reasoning, which is a later fine-tuning there."""


@dataclass(frozen=True)
class Record:
    """K clips (positions in a list of clips) with K texts, and the answer (None: to be predicted).

    Attributes:
        task: one of `TASKS`, or `question` for anything else.
        label: the class that the answer names, or None.
    """

    name: str
    clips: tuple[int, ...]
    texts: tuple[str, ...]
    answer: str | None = None
    task: str = "question"
    label: str | None = None


def parse_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Known task names.

    Raises:
        ConfigError: lists all that are unknown.
    """
    problems = [
        f"task {name!r} is unknown{nearest(name, TASKS)}; known: {', '.join(TASKS)}"
        for name in names
        if name not in TASKS
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(dict.fromkeys(names))


def parse_weights(entries: Sequence[str]) -> dict[str, float]:
    """`("tagging=1", ...)` over the defaults.

    Raises:
        ConfigError: an entry that is not TASK=NUMBER, or a negative number.
    """
    weights = dict(WEIGHTS)
    for entry in entries:
        name, _, value = entry.partition("=")
        try:
            weights[parse_tasks([name])[0]] = float(value)
        except ValueError:
            raise ConfigError(f"task weight {entry!r} is not TASK=NUMBER") from None
        if not 0 <= weights[name] < float("inf"):
            raise ConfigError(f"task weight {entry!r} must be a number from 0 up")
    return weights
