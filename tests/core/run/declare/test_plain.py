"""Options that are taken without pydantic are those that it would give the same value."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Lt
from pt_core.run.declare.options import hints
from pt_core.run.declare.plain import plainly
from pydantic import TypeAdapter


class Choices(Enum):
    A = "a"


@dataclass(frozen=True)
class Kinds:
    count: Annotated[int, Ge(1)] = 1
    share: Annotated[float, Ge(0), Lt(1)] = 0.0
    name: str = ""
    flag: bool = False
    mode: Literal["deep", "shallow", 3] = "deep"
    maybe: Annotated[int, Ge(1)] | None = None
    either: Literal["auto"] | float = "auto"
    number: int | float = 0
    many: tuple[str, ...] = ()
    rates: tuple[Annotated[float, Gt(0)], ...] = ()


VALUES = [
    0, 1, 3, -1, 0.0, 0.5, 1.0, True, False, None, "", "a", "deep", "auto", "1", "-1", "007", "0.5", "1e-3", "1E3", "3.", "+1", " 1", "1_0",
    "none", "inf", "1" * 30, 10**30, math.inf, (), ("a", "b"), ["a"], (1, 2), [1, 2.5], ("1", "2.5"), {}, Path("x"), Choices.A,
]  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Kinds)])
def test_what_is_taken_plainly_is_what_pydantic_makes_of_it(field: str) -> None:
    taken = 0
    for value in VALUES:
        found = plainly(Kinds, hints(Kinds), {field: value})
        if found is not None:
            taken += 1
            expected = TypeAdapter(Kinds).validate_python({field: value})
            assert found == expected
            assert type(getattr(found, field)) is type(getattr(expected, field))
    assert taken, "the usual values of this kind wait for pydantic"


def test_what_a_class_says_of_its_values_is_pydantics_to_word() -> None:
    @dataclass(frozen=True)
    class Pair:
        first: int = 0

        def __post_init__(self) -> None:
            if self.first > 1:
                raise ValueError("no more than 1")

    assert plainly(Pair, {"first": int}, {"first": 1}) == Pair(1)
    assert plainly(Pair, {"first": int}, {"first": 2}) is None
