"""Loaded artifacts: predictions from files or in-memory samples, one tuned method or many over one backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pt_core.artifact import Artifact, read_artifact
from pt_core.backbone import Backbone
from pt_core.data import Batch
from pt_core.errors import ArtifactError, UserError
from pt_core.method import Method
from pt_core.run.evaluate import predict_batch, predictions
from pt_core.run.fit import by_role, restore_for_training
from pt_core.run.modality import Modality
from pt_core.run.options import TrainOptions, build_all, overlay
from pt_core.run.streams import Shard, ordered_batches
from pt_core.run.trainer import seeded
from pt_core.run.world import World
from pt_core.task import Predictions, Task


class Predictor:
    """A tuned method on its backbone.

    Attributes:
        method: in evaluation mode.
        card: card.json of the artifact.
        notes: what was noticed while loading (recast backbone, allowed mismatch ...).
    """

    def __init__(
        self, modality: Modality, method: Method, card: Mapping[str, Any], notes: list[str], device: str = "auto"
    ) -> None:
        self.modality, self.card, self.notes = modality, card, notes
        self.world = World(overlay(TrainOptions(), {"device": device}))
        self.method = method.to(self.world.device).eval()
        for backbone in method.backbones.values():
            backbone.to(self.world.device)

    def stream(
        self, items: Sequence[Any], batch_size: int = 32, workers: int = 0, options: Any | None = None
    ) -> Iterator[dict[str, Any]]:
        """One record per input, in order, as soon as its batch is done.

        Args:
            options: the modality's options of prediction, as an instance or a mapping.

        Raises:
            DataError: an input cannot be read; names it.
        """
        dataset = self.modality.inputs(items, self.method, predict_options(self.modality, options))
        for batch, predicted in predictions(self.method, dataset, self.world, batch_size, 0, workers):
            yield from self.method.task.records(predicted, batch)

    def predict(self, items: Sequence[Any] | Any, batch_size: int = 32, **options: Any) -> list[dict[str, Any]]:
        """Records (id, label, score ...) for a list of paths or in-memory samples, or for a single one."""
        many = items if isinstance(items, (list, tuple)) else [items]
        return list(self.stream(many, batch_size, options=options))


def predict_options(modality: Modality, options: Any | None) -> Any | None:
    """An instance of the modality's `predict_options` from a mapping; None where it has none.

    Raises:
        ConfigError: unknown or invalid options.
    """
    cls = modality.predict_options
    if options is not None and not isinstance(options, Mapping):
        return options
    built = build_all({"predict": cls} if cls is not None else {}, options or {})
    return built.get("predict")


Sources = str | Backbone | Sequence[str] | Mapping[str, Any] | None
"""A backbone (or weight file) for the only role, role -> backbone, or texts such as `ROLE=SPEC`."""


def _per_role(flag: str, given: Sources, roles: Sequence[str]) -> dict[str, Any]:
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    if isinstance(given, Backbone):
        if len(roles) > 1:
            raise UserError(f"this method has the backbones {', '.join(roles)}; pass a mapping role -> backbone")
        return {roles[0]: given}
    return by_role(flag, (given,) if isinstance(given, str) else given, roles)


def load(
    modality: Modality,
    run: Path,
    *,
    backbone: Sources = None,
    weights: Sources = None,
    allow_backbone_mismatch: bool = False,
    device: str = "auto",
    training: bool = False,
) -> Predictor:
    """Load a run folder or its `tuned/` for prediction (`training=True`: for further tuning as well).

    `backbone` and `weights` replace the recorded sources: for the only role, or role -> value.

    Raises:
        ArtifactError: damaged, too new, or of another package.
        BackboneMismatch: the backbone's weights or preprocessing are not those it was tuned on.
    """
    artifact = read_artifact(run, training)
    package, _, name = artifact.method.partition("/")
    if package != modality.package:
        raise UserError(f"{run} belongs to {package!r}: use `{package} predict`")
    cls = modality.registry.load(name)
    config = build_all({"config": cls.Config}, artifact.card["config"], context="option in card.json")["config"]
    task = modality.task_from_json(artifact.card["task"])
    recorded = artifact.card["backbones"]
    roles = [role for role, entry in recorded.items() if training or "predict" in entry.get("needed_for", "predict")]
    sources, files = _per_role("--backbone", backbone, roles), _per_role("--weights", weights, roles)
    networks: dict[str, Backbone] = {}
    notes: list[str] = []
    for role in roles:
        source = sources.get(role, recorded[role]["source"])
        network = (
            source if isinstance(source, Backbone) else modality.load_backbone(source, files.get(role), None, role)
        )
        notes += artifact.check_backbone(role, network, allow_backbone_mismatch)
        networks[role] = network
    method = _build(cls, config, networks, task, artifact)
    if training:
        restore_for_training(method, artifact)
    else:
        method.restore("predict", artifact.tensors)
    return Predictor(modality, method, artifact.card, notes, device)


def _build(cls: type[Method], config: Any, networks: Mapping[str, Backbone], task: Task, artifact: Artifact) -> Method:
    """The method with arbitrary values. A card is input from elsewhere: an absurd size in it must fail by name, not by memory."""
    try:
        with seeded(0, "load"):
            try:
                with torch.device("meta"):
                    shapes = cls(config, networks, task)
            except (NotImplementedError, RuntimeError):
                shapes = None  # a method that reads values while it is built
            if shapes is not None:
                shapes.restore("predict", artifact.tensors)
            return cls(config, networks, task)
    except (RuntimeError, MemoryError, OverflowError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ArtifactError(f"{artifact.folder}: its configuration cannot be built ({reason})") from error


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
        dataset = self.modality.inputs(items, self._first, predict_options(self.modality, options))
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
        built = predict_options(self.modality, options)
        methods = [predictor.method for predictor in self.predictors.values()]
        passes = [
            predictions(one, self.modality.inputs(items, one, built), self.world, batch_size, 0) for one in methods
        ]
        for results in zip(*passes, strict=True):
            batch = results[0][0]
            yield from task.records(_mean([predicted for _, predicted in results]), batch)

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


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    from pt_core.data import Ragged, map_tensors

    index = torch.tensor(list(rows))

    def pick(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)]

    inputs = batch.inputs.select_rows(rows) if isinstance(batch.inputs, Ragged) else map_tensors(batch.inputs, pick)
    return Batch(
        inputs,
        map_tensors(batch.target, pick),
        pick(batch.index),
        [batch.ids[row] for row in rows],
        map_tensors(batch.extra, pick),
    )


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
