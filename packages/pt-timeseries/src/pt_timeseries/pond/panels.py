"""What POND's report shows: which source was chosen and why, and the prompts over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

CHANNELS = 3
"""Channels whose prompts are drawn."""


def source_panels(
    sources: Sequence[str], chosen: int, mix: float, common: Tensor, evidence: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Panels of a finished selection.

    Args:
        sources: names; `chosen` is the index of the one adapted from, `mix` its share w.
        common: (n, m) the common prompt.
        evidence: deltas (source + 1, n, m), fidelity (source,), distinction (source, source), similarity (source,).
    """
    count = len(sources)
    average = [float(row.sum()) / max(1, count - 1) for row in evidence["distinction"]]
    columns = ["similarity", "fidelity", "distinction"]
    values = [[float(evidence["similarity"][i]), float(evidence["fidelity"][i]), average[i]] for i in range(count)]
    rows = [f"{name} (chosen)" if i == chosen else name for i, name in enumerate(sources)]
    why = (
        f"Chosen: {sources[chosen]}, with w = {mix:g}. Similarity: cosine of the mean dP of source and target; the highest wins "
        "among sources of sufficient fidelity. Fidelity: InfoNCE estimate of I(dP ; (X, Y)) on held-out windows, in nats. "
        "Distinction: mean leave-one-out estimate of I(dP ; dP') to the other sources; low is distinct."
    )
    found: list[dict[str, Any]] = [
        {
            "title": "Choice of the source",
            "kind": "heatmap",
            "note": why,
            "data": {"values": values, "rows": rows, "columns": columns},
        }
    ]
    if count > 1:
        pairs = [[float(value) for value in row] for row in evidence["distinction"]]
        found.append(
            {
                "title": "Distinction of every pair of sources",
                "kind": "heatmap",
                "note": "Leave-one-out estimate of I(dP of the row ; dP of the column), in nats; low is distinct.",
                "data": {"values": pairs, "rows": list(sources), "columns": list(sources)},
            }
        )
    names = [*sources, "target"]
    for channel in range(min(CHANNELS, common.shape[0])):
        drawn = {"common": common[channel]} | {
            name: common[channel] + evidence["deltas"][i, channel].to(common.device) for i, name in enumerate(names)
        }
        series = {name: [(step, float(value)) for step, value in enumerate(line)] for name, line in drawn.items()}
        found.append(
            {
                "title": f"Prompts over time, channel {channel + 1}",
                "kind": "lines",
                "note": "Common prompt P, and P + mean dP of every domain.",
                "data": {"series": series, "x_label": "step", "y_label": "value"},
            }
        )
    return found
