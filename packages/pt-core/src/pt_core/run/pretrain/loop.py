"""The loop of every `pretrain` command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pt_core.errors import NonFiniteError

EVERY = 20
"""Steps between two updates of what the bar says, and steps that its loss is the mean of."""


def descend(
    loss_of: Callable[[int], Tensor | None],
    optimiser: torch.optim.Optimizer,
    steps: int,
    *,
    rate: Callable[[int], float] | None = None,
    clip: tuple[Iterable[Tensor], float] | None = None,
    after: Callable[[int, list[float]], None] | None = None,
    shown: Mapping[str, Tensor] | None = None,
    title: str | None = "pretrain",
) -> list[float]:
    """Minimise, and return the loss of every step.

    Args:
        loss_of: step -> loss of its batch, which is a function of the seed and the step; None where the batch has nothing to learn from.
        rate: step -> learning rate; default: as the optimiser has it.
        clip: parameters, and the largest norm of their gradient.
        after: called with the number of steps done and their losses, behind each.
        shown: what the bar says besides the loss; `loss_of` fills it.
        title: of the bar; None for no bar.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    losses: list[float] = []
    clipped, norm = ([], 0.0) if clip is None else (list(clip[0]), clip[1])
    with tqdm(total=steps, desc=title, unit="step", delay=2, disable=True if title is None else None) as bar:
        for step in range(steps):
            if rate is not None:
                for group in optimiser.param_groups:
                    group["lr"] = rate(step)
            loss = loss_of(step)
            if loss is None:
                continue
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                lr = optimiser.defaults["lr"]
                raise NonFiniteError(f"the loss became {losses[-1]} at step {step}; lower lr={lr:g}")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if clipped:
                torch.nn.utils.clip_grad_norm_(clipped, norm)
            optimiser.step()
            if after is not None:
                after(step + 1, losses)
            bar.update()
            if step % EVERY == EVERY - 1:
                further = {name: f"{value.item():.3f}" for name, value in (shown or {}).items()}
                bar.set_postfix({"loss": f"{np.mean(losses[-EVERY:]):.4g}", **further})
    return losses


def decayed(parameters: Iterable[tuple[str, Tensor]], weight_decay: float, plain: Iterable[str] = ()) -> list[Any]:
    """Groups for an optimiser: weight decay for matrices, none for vectors and for what `plain` names."""
    named, spared = list(parameters), set(plain)
    matrices = [p for n, p in named if p.ndim > 1 and n not in spared]
    rest = [p for n, p in named if not (p.ndim > 1 and n not in spared)]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def warm_cosine(step: int, steps: int, warm: int) -> float:
    """A share of the peak rate: a line up over `warm` steps, then half a cosine down to 0."""
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def last_tenth(losses: list[float]) -> float:
    """Mean over the last tenth of the steps."""
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))
