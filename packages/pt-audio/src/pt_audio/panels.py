"""Panels of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pt_core.data import Dataset
from pt_core.method import Method
from pt_core.run.declare.panel import Panel

from pt_audio.pictures import query_attention

if TYPE_CHECKING:
    from pt_audio.method import AudioMethod


def attention_panels(method: Method, data: Mapping[str, Dataset]) -> Sequence[Panel]:
    """Where in time the queries look, for two records of the test (or validation) part."""
    role = "test" if "test" in data else "val"
    if not hasattr(method, "aligner") or role not in data:
        return []
    dataset: Any = data[role]
    found = []
    for place in range(min(2, len(dataset))):
        batch = dataset.collate([place], [dataset.sample(place, epoch=None, seed=0)]).to(
            next(method.parameters()).device
        )
        weights = query_attention(method, batch)
        seconds = cast("AudioMethod", method).encoder.front.seconds / weights.shape[1]
        found.append(
            Panel(
                f"Attention of the queries over time: {batch.ids[0]}",
                "heatmap",
                {
                    "values": [[round(float(value), 5) for value in row] for row in weights.cpu()],
                    "columns": [f"{column * seconds:.2f}" for column in range(weights.shape[1])],
                    "rows": [str(row + 1) for row in range(weights.shape[0])],
                    "x_label": "seconds",
                    "y_label": "query",
                    "value_label": "attention",
                },
                "Mean over heads and over the layers that read the audio; the first segment of the first clip.",
            )
        )
    return found
