"""The Python API: the same runs as the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pt_core.backbone import Backbone
from pt_core.run import predict
from pt_core.run.commands import free_folder, run_fit
from pt_core.run.fit import resolve

from pt_vision.modality import Vision


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and run.json (results, parameters, times)."""

    path: Path
    info: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics on the test part, or on validation where there is none."""
        results = self.info["results"]
        metrics: Mapping[str, float] = results.get("test") or results["val"]
        return metrics


def fit(
    method: str,
    *,
    data: str | Sequence[str],
    out: str | Path | None = None,
    recipe: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Tune a method. `options` are the flags of `pt-vision fit METHOD` with underscores.

    Raises:
        UserError: as on the command line; nothing is written then.
    """
    modality = Vision()
    backbone = options.pop("backbone", None)
    given = backbone if isinstance(backbone, Backbone) else None
    if backbone is not None:
        options["backbone"] = backbone.source if given is not None else backbone
    sources = (data,) if isinstance(data, str) else tuple(data)
    spec = resolve(modality, method, {**options, "data": sources}, recipe)
    folder = Path(out) if out is not None else free_folder(Path("runs"), method)
    return Run(folder, run_fit(modality, spec, folder, given, quiet))


def load(run: str | Path | Run, **options: Any) -> predict.Predictor:
    """Load a run or its `tuned/` folder; see `pt_core.run.predict.load` for the options."""
    return predict.load(Vision(), run.path if isinstance(run, Run) else Path(run), **options)


def load_many(runs: Sequence[str | Path | Run] | Mapping[str, str | Path], **options: Any) -> predict.MixedPredictor:
    """Load several runs over one backbone object for mixed batches."""
    if isinstance(runs, Mapping):
        return predict.load_many(Vision(), {name: Path(path) for name, path in runs.items()}, **options)
    return predict.load_many(Vision(), [run.path if isinstance(run, Run) else Path(run) for run in runs], **options)


__all__ = ["Run", "fit", "load", "load_many"]
