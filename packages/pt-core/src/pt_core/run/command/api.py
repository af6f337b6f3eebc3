"""The Python API behind every package: the same runs as the command line."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.backbone import Backbone
from pt_core.run.command.runs import free_folder, out_problems, run_fit, say, settle
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.needs import needs_of
from pt_core.run.declare.resolve import layered
from pt_core.run.use import mixed, predict
from pt_core.run.use.wrap import Wrapped, wrap

if TYPE_CHECKING:
    from pt_core.run.study.outcome import Study


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


@dataclass(frozen=True)
class Api:
    """`fit`, `load`, `load_many`, `study` and `wrap` of one package; its functions of these names are this object's methods.

    Args:
        source: `module:class` of the package's modality, imported at the first call; or the class itself.
    """

    source: str | Callable[[], Modality]

    @property
    def modality(self) -> Modality:
        if not isinstance(self.source, str):
            return self.source()
        module, _, name = self.source.partition(":")
        modality: Modality = getattr(importlib.import_module(module), name)()
        return modality

    def fit(
        self,
        method: str,
        *,
        data: str | Sequence[str] = (),
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
            UserError: as on the command line, all problems in one; nothing is written then.
        """
        modality = self.modality
        told = layered(modality, method, options, recipe)[0]
        info = needs_of(modality, method, told) or modality.registry.info(method)  # `settle` names an unknown host
        roles = list(info.backbones)
        first = roles[0] if roles else "backbone"
        named = {} if backbone is None else dict(backbone) if isinstance(backbone, Mapping) else {first: backbone}
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
        folder = Path(out) if out is not None else free_folder(Path("runs"), method)
        note = None if quiet else say
        spec = settle(modality, method, given, recipe, problems=out_problems(folder), loaded=bool(loaded), note=note)
        return Run(folder, run_fit(modality, spec, folder, loaded or None, quiet))

    def load(self, run: str | Path | Run, **options: Any) -> predict.Predictor:
        """Load a run or its `tuned/` folder; see `pt_core.run.use.predict.load` for the options."""
        return predict.load(self.modality, _path(run), **options)

    def load_many(
        self, runs: Sequence[str | Path | Run] | Mapping[str, str | Path | Run], **options: Any
    ) -> mixed.MixedPredictor:
        """Load several runs over one backbone object for mixed batches."""
        if isinstance(runs, Mapping):
            return mixed.load_many(self.modality, {name: _path(run) for name, run in runs.items()}, **options)
        return mixed.load_many(self.modality, [_path(run) for run in runs], **options)

    def study(
        self,
        source: str | Path | Mapping[str, Any],
        out: str | Path,
        *,
        jobs: int = 1,
        only: Sequence[str] = (),
        retry_failed: bool = False,
        quiet: bool = False,
    ) -> Study:
        """Run the cells of a study that are not finished; see `pt_core.run.study.run.run_study`.

        Args:
            source: a study file, the folder of a study, or the content of a file as a mapping.
        """
        from pt_core.run.study.run import run_study

        given = source if isinstance(source, Mapping) else Path(source)
        tell = (lambda text: None) if quiet else say
        return run_study(self.modality, given, Path(out), jobs=jobs, only=only, retry_failed=retry_failed, say=tell)

    def wrap(self, network: Any, method: str, classes: int | Sequence[str], seed: int = 0, **options: Any) -> Wrapped:
        """A method on a network as a plain `nn.Module` that takes tensors and returns logits; see `pt_core.run.use.wrap.wrap`."""
        return wrap(self.modality, network, method, classes, seed, **options)


def _path(run: str | Path | Run) -> Path:
    return run.path if isinstance(run, Run) else Path(run)
