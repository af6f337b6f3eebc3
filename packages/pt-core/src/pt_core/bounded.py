"""Building what a file from elsewhere describes, as long as that is of ordinary size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode

Built = TypeVar("Built")
MOST = 2**26
"""Values that may be made in all before building counts as out of the ordinary: a quarter of a GB in float32."""


def built_within(build: Callable[[], Built], most: int = MOST) -> Built | None:
    """What `build` returns; None where it would make tensors of more than `most` values in all.

    The sizes in an untrusted file have to be checked before memory is given to them. Building on the meta device does that for any
    size, but arithmetic there imports torch's compiler, which takes longer than torch itself. Where this gives None, do that.
    """
    try:
        with _Counting(most):
            return build()
    except _TooLarge:
        return None


class _TooLarge(BaseException):
    """Not an Exception: no code that builds may take it for an error of its own."""


class _Counting(TorchFunctionMode):
    """Stops before a call that could make too much: the most that any function makes of its arguments is the size of its tensors
    times every whole number among the others. Crude, but it errs on the side of None."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = math.prod(_sizes([*args, *(kwargs or {}).values()]))
        if made > self.left:
            raise _TooLarge
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.left -= result.numel()
        return result


def _sizes(values: Iterable[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, Tensor):
            yield max(1, value.numel())
        elif isinstance(value, (list, tuple)):
            yield from _sizes(value)
        elif isinstance(value, int):
            yield max(1, abs(value))
