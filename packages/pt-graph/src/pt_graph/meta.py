"""Model-agnostic meta-learning with second derivatives (Finn et al., ICML 2017), as All-in-One uses it over pairs of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[Sequence[Tensor]], Tensor]
"""Initial (or adapted) values -> scalar loss."""


def adapted_loss(
    values: Sequence[Tensor], support: Loss, query: Loss, *, lr: float = 0.01, steps: int = 2, first_order: bool = False
) -> Tensor:
    """Loss on the query after `steps` of gradient descent on the support's, as a function of the values before them.

    Args:
        values: what is adapted; every one takes part in both losses.
        first_order: take the inner gradients as constants.
    """
    adapted = list(values)
    for _ in range(steps):
        gradients = torch.autograd.grad(support(adapted), adapted, create_graph=not first_order)
        adapted = [value - lr * gradient for value, gradient in zip(adapted, gradients, strict=True)]
    return query(adapted)
