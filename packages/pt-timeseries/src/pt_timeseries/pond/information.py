"""Estimates of mutual information between samples, each with a slow reference that spells out its sums.

`infonce` bounds I(u; v) from below and cannot exceed log K (van den Oord et al. 2018). `leave_one_out` bounds it from above where q is the
true conditional density, and is an estimate otherwise (Poole et al. 2019, "leave-one-out upper bound"). Both are in nats.
"""

from __future__ import annotations

import math

import torch
from pt_core.errors import DataError
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 1e-12
"""Floor of the kernel's squared width: equal samples give a flat kernel, not a division by zero."""


def infonce(u: Tensor, v: Tensor, temperature: float = 0.1, floor: float = SMALLEST) -> Tensor:
    """(1/K) sum_j log( e^{s_jj} / ((1/K) sum_k e^{s_jk}) ) with s_jk = cos(u_j, v_k) / temperature; at most log K.

    A row of u shorter than `floor` is divided by it, not by its own length: the score is then linear in u, so u = 0 has the estimate 0 and
    a gradient of at most 1 / (temperature floor), where a cosine has none. Any score bounds the information from below.

    Shapes: u, v (sample, dim), paired by row.

    Raises:
        DataError: no sample, or another number of them on each side.
    """
    if len(u) != len(v) or len(u) == 0:
        raise DataError(f"InfoNCE needs pairs of samples, got {len(u)} and {len(v)}")
    scores = F.normalize(u, dim=-1, eps=floor) @ F.normalize(v, dim=-1).T / temperature
    return (scores.diagonal() - scores.logsumexp(-1)).mean() + math.log(len(u))


def slow_infonce(u: Tensor, v: Tensor, temperature: float = 0.1, floor: float = SMALLEST) -> Tensor:
    """`infonce` as a double loop."""
    count = len(u)
    total = u.new_zeros(())
    for j in range(count):
        lengths = [(u[j].norm().clamp(min=floor), v[k].norm().clamp(min=SMALLEST)) for k in range(count)]
        scores = [(u[j] * v[k]).sum() / (mine * theirs) / temperature for k, (mine, theirs) in enumerate(lengths)]
        total = total + (scores[j].exp() / (sum(s.exp() for s in scores) / count)).log()
    return total / count


def leave_one_out(log_q: Tensor) -> Tensor:
    """(1/K) sum_j [ log q(a_j|b_j) - log( (1/(K-1)) sum_{k != j} q(a_j|b_k) ) ].

    Args:
        log_q: (sample, sample), entry (j, k) is log q(a_j | b_k) up to a constant.

    Raises:
        DataError: fewer than 2 samples: there is nothing to leave out.
    """
    count = len(log_q)
    if count < 2:
        raise DataError(f"the leave-one-out estimate needs at least 2 samples, got {count}")
    own = torch.eye(count, dtype=torch.bool, device=log_q.device)
    others = log_q.masked_fill(own, -math.inf).logsumexp(-1) - math.log(count - 1)
    return (log_q.diagonal() - others).mean()


def slow_leave_one_out(log_q: Tensor) -> Tensor:
    """`leave_one_out` as a double loop."""
    count = len(log_q)
    total = log_q.new_zeros(())
    for j in range(count):
        others = sum(log_q[j, k].exp() for k in range(count) if k != j) / (count - 1)
        total = total + log_q[j, j] - torch.as_tensor(others).log()
    return total / count


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(sample, sample): -|a_j - b_k|^2 / (2 sigma^2), the log of a Gaussian conditional density up to a constant; sigma is the median
    distance of the batch and gets no gradient.

    Shapes: a, b (sample, dim).
    """
    squares = (a[:, None] - b[None]).square().sum(-1)
    width = squares.detach().median().clamp(min=SMALLEST)
    return -squares / (2 * width)


def distinction(a: Tensor, b: Tensor) -> Tensor:
    """The estimate of I(a; b) that POND's discrimination loss minimises; a, b (sample, dim), paired by row."""
    return leave_one_out(kernel(a, b))


def pair_by_class(left: Tensor, right: Tensor, generator: torch.Generator) -> Tensor:
    """An order of `right` whose j-th sample has the class of `left`'s j-th wherever classes allow it, random otherwise.

    Args:
        left, right: (sample,) classes.
        generator: a CPU generator.

    Returns:
        (sample,) a permutation of range(len(right)).
    """
    order = torch.randperm(len(right), generator=generator)
    waiting: dict[int, list[int]] = {}
    for position in order.tolist():
        waiting.setdefault(int(right[position]), []).append(position)
    chosen = [waiting.get(int(label), []) for label in left]
    pairs = [found.pop() if found else -1 for found in chosen]
    rest = iter([position for found in waiting.values() for position in found])
    return torch.tensor([next(rest) if position < 0 else position for position in pairs])
