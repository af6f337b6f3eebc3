"""Who trains on what, and what an epoch logs."""

from __future__ import annotations

from collections.abc import Mapping


def member_shares(order: list[int], members: int, whole: bool) -> list[list[int]]:
    """Rows of every member: its consecutive part of `order` (the last takes the rest) and the last fifth of every other part.

    A part of fewer than 5 has a fifth of 0 rows; `whole` then takes all of it, as the published slice does.
    """
    size = len(order) // members
    parts = [order[e * size : (e + 1) * size if e < members - 1 else len(order)] for e in range(members)]

    def tail(part: list[int]) -> list[int]:
        fifth = int(0.2 * len(part))
        return part[-fifth:] if fifth else (list(part) if whole else [])

    return [
        [*part, *(row for other in range(members) if other != e for row in tail(parts[other]))]
        for e, part in enumerate(parts)
    ]


class Averages:
    """Weighted means of what an epoch logs."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float], weight: int) -> None:
        for name, value in values.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += value * weight
            total[1] += weight

    def count(self, name: str) -> None:
        self.sums.setdefault(name, [0.0, 1.0])[0] += 1

    def means(self) -> dict[str, float]:
        return {name: total / weight for name, (total, weight) in self.sums.items()}
