"""What every run's report shows besides: the scores of each target domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pt_core.data import Dataset
from pt_core.run.declare.panel import Panel

from pt_timeseries.data.dataset import domains_of


def domain_panel(dataset: Dataset, records: Sequence[Mapping[str, Any]]) -> Panel:
    """Macro F1 and accuracy per target domain, from the records of the test part."""
    rows = []
    names = domains_of(dataset)
    for name in dict.fromkeys(names):
        own = [record for record, owner in zip(records, names, strict=True) if owner == name]
        right = sum(bool(record.get("correct")) for record in own)
        rows.append(
            {
                "domain": name,
                "windows": len(own),
                "macro F1": round(_macro_f1(own), 4),
                "accuracy": round(right / len(own), 4),
            }
        )
    return Panel("Target domains (test)", "table", {"rows": rows})


def _macro_f1(records: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the classes that occur in the records, as labels or predictions."""
    pairs = [(record["label"], record["predicted"]) for record in records]
    scores = []
    for label in {name for pair in pairs for name in pair}:
        hits = sum(true == label and found == label for true, found in pairs)
        scores.append(2 * hits / sum((true == label) + (found == label) for true, found in pairs))
    return sum(scores) / len(scores)
