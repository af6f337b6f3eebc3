"""The Python API behind every package: the same runs as the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pt_core.backbone import Backbone
from pt_core.run import predict
from pt_core.run.commands import free_folder, run_fit
from pt_core.run.fit import resolve
from pt_core.run.modality import Modality


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
    modality: Modality,
    method: str,
    *,
    data: str | Sequence[str],
    backbone: str | Backbone | Mapping[str, str | Backbone] | None = None,
    out: str | Path | None = None,
    recipe: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Tune a method. `options` are the flags of `fit METHOD` with underscores.

    Args:
        data: path or `builtin:` name, or several ROLE=PATH.
        backbone: spec or loaded backbone, or role -> one of them where the method has several; all specs or all loaded.

    Raises:
        UserError: as on the command line; nothing is written then.
    """
    roles = list(modality.registry.info(method).backbones)
    named = {} if backbone is None else dict(backbone) if isinstance(backbone, Mapping) else {roles[0]: backbone}
    loaded = {role: value for role, value in named.items() if isinstance(value, Backbone)}
    if loaded and set(loaded) != set(roles):
        raise TypeError(f"pass a loaded backbone for every role of {method!r} ({', '.join(roles)}), or none")
    specs = [f"{role}={value.source if isinstance(value, Backbone) else value}" for role, value in named.items()]
    weights = options.pop("weights", ())
    given = {
        **options,
        "data": (data,) if isinstance(data, str) else tuple(data),
        "backbone": tuple(specs),
        "weights": (weights,) if isinstance(weights, str) else tuple(weights or ()),
    }
    spec = resolve(modality, method, given, recipe)
    folder = Path(out) if out is not None else free_folder(Path("runs"), method)
    return Run(folder, run_fit(modality, spec, folder, loaded or None, quiet))


def load(modality: Modality, run: str | Path | Run, **options: Any) -> predict.Predictor:
    """Load a run or its `tuned/` folder; see `pt_core.run.predict.load` for the options."""
    return predict.load(modality, run.path if isinstance(run, Run) else Path(run), **options)


def load_many(
    modality: Modality, runs: Sequence[str | Path | Run] | Mapping[str, str | Path], **options: Any
) -> predict.MixedPredictor:
    """Load several runs over one backbone object for mixed batches."""
    if isinstance(runs, Mapping):
        return predict.load_many(modality, {name: Path(path) for name, path in runs.items()}, **options)
    return predict.load_many(modality, [run.path if isinstance(run, Run) else Path(run) for run in runs], **options)
