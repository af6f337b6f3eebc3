"""A domain in two parts that share no recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from pt_core.data import generator

from pt_timeseries.data.domains import Domain

TRIES = 16
"""Shuffles of whole recordings tried for a split that keeps every class."""


def divide(domain: Domain, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(kept, held out) rows: by the file's own division, else whole recordings, else the last windows of every class.

    Windows of one recording overlap or follow each other, so they never lie on both sides where recordings are known; where they are
    not, the parts are cut in time, not at random.
    """
    rows = range(len(domain))
    if domain.parts is not None:
        return [r for r in rows if domain.parts[r] == "train"], [r for r in rows if domain.parts[r] != "train"]
    labels = list(domain.labels) if domain.labels is not None else [""] * len(domain)
    groups = domain.groups
    if groups is not None and len(set(groups)) > 1:
        held_groups = _hold_groups(groups, labels, fraction, seed, domain.name)
        return [r for r in rows if groups[r] not in held_groups], [r for r in rows if groups[r] in held_groups]
    held: list[int] = []
    for label in sorted(set(labels)):
        members = [row for row in rows if labels[row] == label]
        count = min(len(members) - 1, max(1, round(fraction * len(members))))
        held += members[len(members) - count :]
    return [row for row in rows if row not in set(held)], sorted(held)


def _hold_groups(groups: Sequence[str], labels: Sequence[str], fraction: float, seed: int, name: str) -> set[str]:
    """Whole recordings of about `fraction` of the windows; of some shuffles the one that loses fewest classes on either side."""
    sizes = Counter(groups)
    order = sorted(sizes)
    best: tuple[tuple[int, float], set[str]] | None = None
    for attempt in range(TRIES):
        mixed = torch.randperm(len(order), generator=generator(seed, "divide", name, attempt)).tolist()
        held: set[str] = set()
        count = 0
        for position in mixed[:-1]:
            if held and count + sizes[order[position]] / 2 > fraction * len(groups):
                break
            held.add(order[position])
            count += sizes[order[position]]
        kept_classes = {label for label, group in zip(labels, groups, strict=True) if group not in held}
        held_classes = {label for label, group in zip(labels, groups, strict=True) if group in held}
        lost = 2 * len(set(labels)) - len(kept_classes) - len(held_classes)
        score = (lost, abs(count / len(groups) - fraction))
        if best is None or score < best[0]:
            best = (score, held)
    assert best is not None
    return best[1]


def take(domain: Domain, rows: Sequence[int]) -> Domain:
    """Some windows of a domain; groups become the positions they had, for ids."""
    labels = None if domain.labels is None else [domain.labels[row] for row in rows]
    return Domain(domain.name, domain.values[list(rows)], labels, [str(row) for row in rows])
