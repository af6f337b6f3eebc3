"""Which source the target's prompts resemble: the evidence, gathered on held-out windows, and the choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pt_timeseries.pond.fidelity import Fidelity
from pt_timeseries.pond.information import distinction, pair_by_class
from pt_timeseries.pond.prompts import Generator, SeriesPrompt
from pt_timeseries.pond.streams import domain_rows

LARGEST_K = 32
"""Samples per InfoNCE estimate: it saturates at log K, so sources are compared with equal K."""


@dataclass(frozen=True)
class Evidence:
    """What is known of the sources.

    Attributes:
        deltas: (source + 1, n, m) mean dP of every source's held-out windows, and of the target's.
        fidelity: (source,) held-out InfoNCE estimates with equal K; empty without the fidelity term.
        distinction: (source, source) leave-one-out estimates of I(dP^i ; dP^r); low is distinct. The diagonal is 0.
    """

    deltas: Tensor
    fidelity: Tensor
    distinction: Tensor

    @staticmethod
    def shapes(sources: int, channels: int, length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of `tensors`."""
        return {
            "deltas": (sources + 1, channels, length),
            "fidelity": (sources,),
            "distinction": (sources, sources),
            "similarity": (sources,),
        }

    def tensors(self, similarity: Tensor) -> dict[str, Tensor]:
        """What is kept with the method, for the report."""
        return {
            "deltas": self.deltas,
            "fidelity": self.fidelity if len(self.fidelity) else torch.zeros_like(similarity),
            "distinction": self.distinction,
            "similarity": similarity,
        }


def select_source(evidence: Evidence, floor: float) -> tuple[int, Tensor]:
    """(i*, r): r_i = cos(mean dP^i, mean dP^T); i* = argmax r_i among the sources whose fidelity is at least `floor` times the median.
    Ties go to the lowest index; a single source is chosen as it is.

    Fidelity says nothing of the target, so with floor = 1 half of the sources could never be chosen, whichever the target resembles.
    """
    flat = evidence.deltas.flatten(1)
    similarity = torch.nn.functional.cosine_similarity(flat[:-1], flat[-1:], dim=1)
    allowed = torch.ones(len(similarity), dtype=torch.bool)
    if len(evidence.fidelity) > 1:
        median = evidence.fidelity.quantile(0.5)
        allowed = (evidence.fidelity >= (floor * median if median > 0 else -torch.inf)).cpu()
    scores = [float(value) if keep else float("-inf") for value, keep in zip(similarity, allowed, strict=True)]
    return max(range(len(scores)), key=lambda i: scores[i]), similarity


class Prompter(Protocol):
    """What the choice needs of the method: prompts of every domain, features behind them, and the critic."""

    sources: tuple[str, ...]
    common: SeriesPrompt
    fidelity: Fidelity | None
    target_generator: Generator

    def delta(self, inputs: Tensor, domain: Tensor | None) -> Tensor:
        """(batch, n, m): dP of every window."""
        ...

    def generated(self, generator: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """(batch, n, m): what a generator makes of windows."""
        ...

    def feature(self, inputs: Tensor, prompt: Tensor) -> Tensor:
        """(batch, d): f of the windows behind their prompts (batch, n, m), pooled."""
        ...


def gather(method: Prompter, ctx: Any) -> Evidence:
    """Pass over the sources' validation windows (training windows where a source has none) and the target's adaptation windows."""
    count = len(method.sources)
    held = ctx.data.get("val")
    seen = [len(rows) > 1 for rows in domain_rows(held, method.sources)] if held is not None else [False] * count
    roles = ["val"] * any(seen) + ["train"] * (not all(seen))
    found: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {i: [] for i in range(count)}
    for role in roles:
        for batch in ctx.batches(role):
            domain = batch.extra["domain"]
            delta = method.delta(batch.inputs, domain)
            feature = method.feature(batch.inputs, method.common.series + delta)
            for i in domain.unique().tolist():
                if i >= 0 and seen[i] == (role == "val"):
                    rows = domain == i
                    found[i].append((delta[rows], feature[rows], batch.target[rows]))
    own = {i: tuple(torch.cat(parts) for parts in zip(*found[i], strict=True)) for i in range(count)}
    target = [
        method.generated(method.target_generator, b.inputs)
        for role in ("shots", "unlabeled")
        if role in ctx.data
        for b in ctx.batches(role)
    ]
    deltas = torch.stack([own[i][0].mean(0) for i in range(count)] + [torch.cat(target).mean(0)])
    return Evidence(deltas, _fidelity(method, own, ctx), _distinction(own, ctx).to(deltas.device))


def _fidelity(method: Prompter, own: dict[int, tuple[Tensor, ...]], ctx: Any) -> Tensor:
    if method.fidelity is None:
        return torch.zeros(0)
    size = min(LARGEST_K, *(len(parts[0]) for parts in own.values()), LARGEST_K)
    estimates = []
    for i, (delta, feature, target) in own.items():
        order = torch.randperm(len(delta), generator=ctx.rng("fidelity", i)).to(delta.device)
        chunks = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        values = [method.fidelity(delta[rows], feature[rows], target[rows]) for rows in chunks]
        estimates.append(torch.stack(values).mean())
    return torch.stack(estimates)


def _distinction(own: dict[int, tuple[Tensor, ...]], ctx: Any) -> Tensor:
    table = torch.zeros(len(own), len(own))
    for i, (left, _, left_target) in own.items():
        for r, (right, _, right_target) in own.items():
            size = min(len(left), len(right))
            if i == r or size < 2:
                continue
            rows = [
                torch.randperm(len(x), generator=ctx.rng("pair", i, r, n))[:size] for n, x in enumerate((left, right))
            ]
            a, b = (rows[0].to(left.device), rows[1].to(left.device))
            order = pair_by_class(left_target[a], right_target[b], ctx.rng("order", i, r)).to(left.device)
            table[i, r] = distinction(left[a].flatten(1), right[b][order].flatten(1))
    return table
