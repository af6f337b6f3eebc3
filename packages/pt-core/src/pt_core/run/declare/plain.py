"""Options that are what they should be already, or plain numbers in text. Most are, and pydantic, which converts and explains the
others, takes longer to import than a command has to do otherwise."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

T = TypeVar("T")
BOUNDS = {
    Ge: lambda value, bound: value >= bound.ge,
    Gt: lambda value, bound: value > bound.gt,
    Le: lambda value, bound: value <= bound.le,
    Lt: lambda value, bound: value < bound.lt,
}
INTEGER, FLOAT = re.compile(r"-?\d{1,15}"), re.compile(r"-?\d{1,15}(\.\d{1,15})?(e-?\d{1,2})?")


class _Other(Exception):
    """The value may be wrong, or right after a conversion: not for this file to say."""


def plainly(cls: type[T], hints: Mapping[str, Any], values: Mapping[str, Any]) -> T | None:
    """The dataclass with these values, as pydantic would build it; None where that takes a conversion or ends in an error."""
    try:
        return cls(**{name: _taken(hints[name], value) for name, value in values.items()})
    except (_Other, TypeError, ValueError):  # also what a class says of its own values: pydantic words that
        return None


def _written(form: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and form.fullmatch(value) is not None


def _taken(hint: Any, value: Any) -> Any:
    """The value as a field of this type takes it."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in parts):
            return value
    elif origin in (typing.Union, types.UnionType):
        found = []
        for part in parts:
            with suppress(_Other):
                found.append(_taken(part, value))
        exact = [taken for taken in found if type(taken) is type(value)]
        if len(exact or found) == 1:
            return (exact or found)[0]
    elif origin is Annotated:
        taken = _taken(parts[0], value)
        bounds = [part for part in parts[1:] if not isinstance(part, str)]  # a text is the field's help
        if all(type(bound) in BOUNDS and BOUNDS[type(bound)](taken, bound) for bound in bounds):
            return taken
    elif origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        if isinstance(value, (tuple, list)):
            return tuple(_taken(parts[0], item) for item in value)
    elif hint is float and ((type(value) is int and abs(value) < 2**53) or _written(FLOAT, value)):
        return float(value)
    elif hint is int and _written(INTEGER, value):
        return int(value)
    elif hint in (bool, int, float, str, type(None)) and type(value) is hint:
        return value
    raise _Other
