"""Building what a file from elsewhere describes, as long as that is of ordinary size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Built = TypeVar("Built")
MOST = 2**26
"""Values that may be made in all before building counts as out of the ordinary: a quarter of a GB in float32."""
CALLS = 50_000
"""Calls of torch that building may take: a method of the largest networks takes some thousands, one of a million layers takes millions."""
SQUARED = {"eye", "diag", "diagflat", "diag_embed", "vander", "block_diag", "combinations", "cov", "corrcoef", "outer"}
"""Functions that make the square of what they are given."""
RANGES = {"arange", "range"}
"""Functions whose size is in numbers that need not be whole."""


def built_within(build: Callable[[], Built], most: float = MOST, calls: int | None = None) -> Built | None:
    """What `build` returns; None where it would make tensors of more than `most` values in all.

    The sizes in an untrusted file have to be checked before memory is given to them. Building on the meta device does that for any
    size, but arithmetic there imports torch's compiler, which takes longer than torch itself. Where this gives None, do that.

    Raises:
        ValueError: it takes more than `calls` (default: CALLS) calls of torch, on whatever device.
    """
    limit = CALLS if calls is None else calls
    try:
        with _Counting(most, limit):
            return build()
    except _TooLarge:
        return None
    except _TooLong:
        raise ValueError(f"it takes more than {limit:,} calls of torch to build") from None


def uncounted() -> AbstractContextManager[None]:
    """What runs inside is not counted, and goes to no device that stands for shapes: a look at a loaded network, whose size no file of a
    method decides."""
    context: AbstractContextManager[None] = torch._C.DisableTorchFunction()
    return context


class _TooLarge(BaseException):
    """Not an Exception: no code that builds may take it for an error of its own."""


class _TooLong(BaseException):
    """As `_TooLarge`."""


class _Counting(TorchFunctionMode):
    """Stops before a call that could make too much: the most that any function makes of its arguments is the size of its tensors
    times every whole number among the others. Crude, but it errs on the side of None."""

    def __init__(self, most: float, calls: int) -> None:
        super().__init__()
        self.left, self.calls = most, calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise _TooLong
        if self.left < math.inf and _made(getattr(func, "__name__", ""), args, kwargs or {}) > self.left:
            raise _TooLarge
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.left -= result.numel()
        return result


def _made(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The most values that a call can make."""
    made: float = math.prod(_sizes([*args, *kwargs.values()]))
    if name in SQUARED:
        return made * made
    if name in RANGES:
        made *= math.prod(_parts([*args, *kwargs.values()]))
    elif name == "interpolate":
        scale, given = kwargs.get("scale_factor", args[2] if len(args) > 2 else None), kwargs.get("input", args[:1])
        (image,) = given if isinstance(given, tuple) else (given,)
        if isinstance(scale, (int, float)):
            made *= max(1.0, float(scale)) ** max(1, image.ndim - 2)
        elif isinstance(scale, (list, tuple)):
            made *= math.prod(max(1.0, float(one)) for one in scale)
    return made


def _sizes(values: Iterable[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, Tensor):
            yield max(1, value.numel())
        elif isinstance(value, (list, tuple)):
            yield from _sizes(value)
        elif isinstance(value, int):
            yield max(1, abs(value))


def _parts(values: Iterable[Any]) -> Iterator[float]:
    """What a start, an end or a step that is no whole number can make of a range."""
    for value in values:
        if isinstance(value, float) and value != 0:
            yield max(abs(value), 1 / abs(value), 1.0)
