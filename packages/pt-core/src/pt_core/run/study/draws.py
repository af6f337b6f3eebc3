"""Random points: values drawn for options, each keyed by (seed, draw, option), so that a further option or draw changes no other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pt_core.data import stable_seed
from pt_core.errors import nearest
from pt_core.run.declare.numbers import finite

KINDS = ("log", "uniform", "integers", "choice")
DIGITS = 3
"""Significant digits of a drawn number: what is told is what was run."""


def distribution_problem(name: str, given: Any) -> str | None:
    """What is wrong with `{log: [LOW, HIGH]}`, `{uniform: [LOW, HIGH]}`, `{integers: [LOW, HIGH]}` or `{choice: [VALUE, ...]}`."""
    forms = "{log: [LOW, HIGH]}, {uniform: [LOW, HIGH]}, {integers: [LOW, HIGH]} or {choice: [VALUE, ...]}"
    if not isinstance(given, Mapping) or len(given) != 1:
        return f"random.space.{name} must be {forms}"
    ((kind, values),) = given.items()
    if kind not in KINDS:
        return f"random.space.{name}: unknown kind {kind!r}{nearest(str(kind), KINDS)}; it is {forms}"
    if not isinstance(values, list) or not values:
        return f"random.space.{name}: {kind} needs a list"
    if kind == "choice":
        return None
    numbers = [as_number(value) for value in values]
    if len(numbers) != 2 or not all(finite(value) for value in numbers) or numbers[0] > numbers[1]:
        return f"random.space.{name}: {kind} needs two numbers, the lower one first, not {values}"
    if kind == "log" and numbers[0] <= 0:
        return f"random.space.{name}: log needs numbers above 0, not {values}"
    if kind == "integers" and any(value != int(value) for value in numbers):
        return f"random.space.{name}: integers needs whole numbers, not {values}"
    return None


def drawn(given: Mapping[str, list[Any]], *key: int | str) -> Any:
    """A value of a distribution, drawn by `key`."""
    ((kind, values),) = given.items()
    rng = np.random.default_rng(stable_seed("study", *key))
    if kind == "choice":
        return values[int(rng.integers(len(values)))]
    low, high = (as_number(value) for value in values)
    if kind == "integers":
        return int(rng.integers(int(low), int(high) + 1))
    share = float(rng.random())
    value = (
        math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        if kind == "log"
        else low + share * (high - low)
    )
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def as_number(value: Any) -> float:
    """A number, also where YAML reads a text (`1e-3`); nan for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
