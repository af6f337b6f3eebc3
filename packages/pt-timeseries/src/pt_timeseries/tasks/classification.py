"""Classification over several domains: the classes, the source domains that were trained on, and the statistics of their windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from pt_core.errors import ArtifactError
from pt_core.run.declare.options import ClassificationOptions
from pt_core.run.tasks.classification import Classification
from torch import Tensor

from pt_timeseries.data.dataset import WindowDataset, domains_of
from pt_timeseries.options import Missing, Unequal

LARGEST = 10_000
"""Largest number of sources or channels accepted in a card."""


class DomainClassification(Classification):
    """Single-label classification of windows; selection by macro F1, the metric of the field.

    Attributes:
        sources: source domains, in the order of their first window; `batch.extra["domain"]` indexes them.
        normalise: as in `DataOptions`; `statistics` are (mean, std) per channel where it is `train`, else None.
        unequal, missing: as in `DataOptions`; what is predicted later is treated the same.
    """

    select: tuple[str, Literal["max", "min"]] = ("macro_f1", "max")

    def __init__(
        self,
        labels: Sequence[str],
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        ordinal: bool = False,
        *,
        sources: Sequence[str] = (),
        normalise: str = "none",
        statistics: tuple[Tensor, Tensor] | None = None,
        unequal: Unequal = "error",
        missing: Missing = "error",
    ) -> None:
        super().__init__(labels, class_weights, label_smoothing, ordinal)
        self.sources, self.normalise, self.statistics = tuple(sources), normalise, statistics
        self.unequal, self.missing = unequal, missing

    @classmethod
    def of(cls, options: ClassificationOptions, train: Any) -> DomainClassification:
        """The task of a run, from its training windows (a `WindowDataset`, or a subset of one); of class names alone it has no domains and
        takes windows as they are."""
        base = Classification.from_options(options, train)
        windows = getattr(train, "base", train)
        if not isinstance(windows, WindowDataset):
            return cls(base.labels, base.class_weights, base.label_smoothing, base.ordinal)
        return cls(
            base.labels,
            base.class_weights,
            base.label_smoothing,
            base.ordinal,
            sources=list(dict.fromkeys(domains_of(train))),
            normalise=windows.normalise,
            statistics=windows.statistics() if windows.normalise == "train" else None,
            unequal=windows.unequal,
            missing=windows.missing,
        )

    def to_json(self) -> dict[str, Any]:
        spec = {**super().to_json(), "sources": list(self.sources), "normalise": self.normalise}
        handling = {"unequal": self.unequal, "missing": self.missing}
        spec |= {name: how for name, how in handling.items() if how != "error"}
        if self.statistics is not None:
            mean, std = self.statistics
            spec |= {"mean": mean.tolist(), "std": std.tolist()}
        return spec

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> DomainClassification:
        """Inverse of `to_json`.

        Raises:
            ArtifactError: a malformed entry.
        """
        own = {"sources", "normalise", "mean", "std", "unequal", "missing"}
        base = Classification.from_json({key: value for key, value in spec.items() if key not in own})
        sources, normalise = spec.get("sources"), spec.get("normalise")
        if (
            not isinstance(sources, list)
            or not all(isinstance(name, str) for name in sources)
            or len(sources) > LARGEST
        ):
            raise ArtifactError("the card's task needs a list of source domains")
        if normalise not in ("train", "domain", "none"):
            raise ArtifactError(f"the card's task has normalise={str(normalise)[:40]!r}; known: train, domain, none")
        unequal, missing = spec.get("unequal", "error"), spec.get("missing", "error")
        for name, how, known in (("unequal", unequal, get_args(Unequal)), ("missing", missing, get_args(Missing))):
            if how not in known:
                raise ArtifactError(f"the card's task has {name}={str(how)[:40]!r}; known: {', '.join(known)}")
        statistics = None
        if normalise == "train":
            mean, std = (_numbers(spec.get(key), key) for key in ("mean", "std"))
            if len(mean) != len(std) or not bool((std > 0).all()):
                raise ArtifactError("the card's task has statistics that do not fit: mean and positive std per channel")
            statistics = (mean, std)
        return cls(
            base.labels,
            base.class_weights,
            base.label_smoothing,
            base.ordinal,
            sources=sources,
            normalise=normalise,
            statistics=statistics,
            unequal=unequal,
            missing=missing,
        )


def _numbers(value: Any, name: str) -> Tensor:
    good = isinstance(value, list) and 0 < len(value) <= LARGEST
    if not good or not all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in value):
        raise ArtifactError(f"the card's task needs a list of finite numbers {name!r}")
    return torch.tensor(value, dtype=torch.float32)
