"""Many tuned methods over one backbone object: batches that mix their rows, and the mean of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pt_core.backbone import Backbone
from pt_core.data import Batch, take
from pt_core.errors import UserError
from pt_core.run.data.streams import Shard, ordered_batches
from pt_core.run.declare.modality import Modality
from pt_core.run.train.evaluate import predict_batch, predictions
from pt_core.run.use.load import Sources
from pt_core.run.use.predict import Predictor, load, predict_options
from pt_core.task import Predictions


class MixedPredictor:
    """Several tuned methods over one backbone object; a batch may mix rows for different ones.

    Where the methods can share a forward (`Method.mixed`), every batch is one forward; otherwise its rows are grouped by tenant.
    """

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        if not predictors:
            raise UserError("load_many needs at least one run")
        self.predictors = dict(predictors)
        first = next(iter(self.predictors.values()))
        self.modality, self.world, self._first = first.modality, first.world, first.method
        methods = [predictor.method for predictor in self.predictors.values()]
        for name, predictor in self.predictors.items():
            problem = self.modality.mixing_problem(self._first, predictor.method)
            if problem is not None:
                raise UserError(f"runs {next(iter(self.predictors))!r} and {name!r} cannot share a batch: {problem}")
        same = len({type(method) for method in methods}) == 1
        self._together = type(methods[0]).mixed(methods) if same else None

    @property
    def names(self) -> list[str]:
        return list(self.predictors)

    @property
    def backbones(self) -> Mapping[str, Backbone]:
        """The shared backbone objects by role."""
        return self._first.backbones

    def stream(
        self, items: Sequence[Any], routes: Sequence[str], batch_size: int = 32, options: Any | None = None
    ) -> Iterator[dict[str, Any]]:
        """One record per input, by the run that `routes` names for it.

        Raises:
            UserError: an unknown run name, or another number of routes than inputs.
        """
        unknown = sorted(set(routes) - set(self.predictors))
        if unknown:
            raise UserError(f"unknown run {', '.join(map(repr, unknown))}; loaded: {', '.join(self.names)}")
        dataset = self.modality.inputs(items, self._first, self._options(options))
        if len(routes) != len(dataset):
            raise UserError(f"{len(routes)} routes for {len(dataset)} inputs; give one per input")
        position = {name: row for row, name in enumerate(self.names)}
        for batch in ordered_batches(dataset, batch_size, 0, Shard()):
            tenants = torch.tensor([position[routes[i]] for i in batch.index.tolist()])
            moved = batch.to(self.world.device)
            with torch.no_grad(), self.world.autocast():
                rows = self._rows(moved, tenants.to(self.world.device))
            for number, predicted in enumerate(rows):
                name = self.names[int(tenants[number])]
                task = self.predictors[name].method.task
                for record in task.records(predicted, take(moved, [number])):
                    yield {**record, "run": name}

    def predict(
        self, items: Sequence[Any], routes: Sequence[str], batch_size: int = 32, **options: Any
    ) -> list[dict[str, Any]]:
        return list(self.stream(items, routes, batch_size, options))

    def ensemble(
        self, items: Sequence[Any], batch_size: int = 32, options: Any | None = None
    ) -> Iterator[dict[str, Any]]:
        """One record per input from the mean of all runs' predictions (of their logits, for classification).

        Raises:
            UserError: the runs differ in their task (other classes, say), or predict nothing that has a mean.
        """
        task = self._first.task
        for name, predictor in self.predictors.items():
            if predictor.method.task.to_json() != task.to_json():
                raise UserError(f"runs {self.names[0]!r} and {name!r} have different tasks or classes: no ensemble")
        built = self._options(options)
        methods = [predictor.method for predictor in self.predictors.values()]
        passes = [
            predictions(one, self.modality.inputs(items, one, built), self.world, batch_size, 0) for one in methods
        ]
        for results in zip(*passes, strict=True):
            batch = results[0][0]
            yield from task.records(_mean([predicted for _, predicted in results]), batch)

    def _options(self, options: Any | None) -> Any | None:
        """Every method takes its own; the modality's are the same for all."""
        built = [predict_options(self.modality, one.method, options) for one in self.predictors.values()]
        return built[0]

    def _rows(self, batch: Batch, tenants: Tensor) -> Sequence[Predictions]:
        if self._together is not None:
            return self._together(batch, tenants)
        rows: list[Predictions] = [{}] * len(batch)
        for tenant in tenants.unique().tolist():
            chosen = (tenants == tenant).nonzero().flatten().tolist()
            method = self.predictors[self.names[tenant]].method
            predicted = predict_batch(method, take(batch, chosen), 0)
            for place, number in enumerate(chosen):
                rows[number] = {key: value[place : place + 1] for key, value in predicted.items()}
        return rows


def _mean(results: Sequence[Predictions]) -> Predictions:
    for name, tensor in results[0].items():
        if not tensor.is_floating_point():
            raise UserError(f"{name!r} of these predictions has no mean: an ensemble needs scores")
    return {name: torch.stack([result[name] for result in results]).mean(0) for name in results[0]}


def load_many(
    modality: Modality,
    runs: Sequence[Path] | Mapping[str, Path],
    *,
    backbone: Sources = None,
    weights: Sources = None,
    device: str = "auto",
) -> MixedPredictor:
    """Load several runs over ONE backbone object; names are the folders' names, or the keys of a mapping.

    Raises:
        BackboneMismatch: a run was tuned on another backbone than the first.
    """
    named = dict(runs) if isinstance(runs, Mapping) else {}
    if not isinstance(runs, Mapping):
        for run in runs:
            name = run.resolve().parent.name if run.name == "tuned" else run.resolve().name
            if name in named:
                raise UserError(f"two runs are called {name!r}; pass a mapping name -> folder")
            named[name] = run
    loaded: dict[str, Predictor] = {}
    shared: Sources = backbone
    for name, run in named.items():
        # Weights are read once; the later runs get the loaded object.
        own = None if loaded else weights
        loaded[name] = load(modality, Path(run), backbone=shared, weights=own, device=device)
        shared = loaded[name].method.backbones
    return MixedPredictor(loaded)
