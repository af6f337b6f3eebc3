"""A step's context without a trainer: plain gradient descent, whose gradients are kept to be compared with a loop written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from pt_core import Batch
from pt_core.data import generator
from torch import Tensor

Part = Mapping[str, Batch]


class Stepping:
    """What a custom step gets in one process.

    Args:
        optimisers: name -> (patterns of its parameters, learning rate).

    Attributes:
        updates: (optimiser, parameter -> gradient as it was stepped with), in their order.
    """

    def __init__(
        self,
        method: Any,
        parts: Sequence[Part] = (),
        optimisers: Mapping[str, tuple[Sequence[str], float]] | None = None,
        step: int = 3,
        steps: int = 10,
    ) -> None:
        self.method, self.parts, self.step, self.steps = method, parts, step, steps
        self.optimisers = optimisers or {"main": (("*",), 0.0)}
        self.device, self._pending = torch.device("cpu"), 0
        self.updates: list[tuple[str, dict[str, Tensor]]] = []

    def rng(self, *key: Any) -> torch.Generator:
        return generator("stepping", *key)

    def reduce(self, values: Tensor) -> Tensor:
        return values

    def each_part(self, fn: Callable[[Part], Any]) -> list[Any]:
        return [fn(part) for part in self.parts if part]

    def backward(self, loss: Tensor, count: int, retain_graph: bool = False) -> None:
        (loss * count).backward(retain_graph=retain_graph)
        self._pending += count

    def update(self, optimiser: str = "main", clip: bool = True) -> float:
        own = self.owned(optimiser)
        found = {name: p.grad / max(1, self._pending) for name, p in own.items() if p.grad is not None}
        for p in own.values():
            p.grad = None
        self._pending = 0
        return self.apply(found, optimiser, clip)

    def gradients(self, loss: Callable[[Part], tuple[Tensor, int]], optimiser: str = "main") -> dict[str, Tensor]:
        own, totals, units = self.owned(optimiser), {}, 0
        for part in self.parts:
            value, count = loss(part)
            found = torch.autograd.grad(value * count, list(own.values()), allow_unused=True)
            units += count
            for name, gradient in zip(own, found, strict=True):
                if gradient is not None:
                    totals[name] = totals.get(name, torch.zeros(())) + gradient
        return {name: total / max(1, units) for name, total in totals.items()}

    def apply(self, gradients: Mapping[str, Tensor], optimiser: str = "main", clip: bool = True) -> float:
        own, rate = self.owned(optimiser), self.optimisers[optimiser][1]
        with torch.no_grad():
            for name, gradient in gradients.items() if rate else ():
                own[name].sub_(rate * gradient)
        self.updates.append((optimiser, dict(gradients)))
        return 0.0

    def owned(self, optimiser: str) -> dict[str, Any]:
        patterns = self.optimisers[optimiser][0]
        own = dict(self.method.named_parameters())
        return {n: p for n, p in own.items() if p.requires_grad and any(fnmatchcase(n, one) for one in patterns)}


def gradients_of(method: Any, loss: Tensor, *patterns: str) -> dict[str, Tensor]:
    """Parameter -> gradient of a scalar; those it does not reach are left out."""
    own = {n: p for n, p in method.named_parameters() if p.requires_grad}
    own = {n: p for n, p in own.items() if not patterns or any(fnmatchcase(n, one) for one in patterns)}
    found = torch.autograd.grad(loss, list(own.values()), allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(own, found, strict=True) if gradient is not None}


def same_gradients(have: Mapping[str, Tensor], want: Mapping[str, Tensor], tolerance: float = 2e-5) -> None:
    """By name, each relative to the largest of all; what is not in both is 0."""
    largest = max(float(g.abs().max()) for g in want.values())
    assert largest > 0, "or the test says nothing"
    for name in sorted({*have, *want}):
        one = have.get(name, torch.zeros_like(want[name]) if name in want else torch.zeros(()))
        other = want.get(name, torch.zeros_like(one))
        gap = float((one - other).abs().max()) / largest
        assert gap <= tolerance, f"the gradient of {name} differs by {gap:.1e} of the largest"
