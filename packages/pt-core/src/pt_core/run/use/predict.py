"""Loaded artifacts: predictions from files or in-memory samples, one tuned method or many over one backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pt_core.artifact import Artifact, read_artifact, restore_for_training
from pt_core.backbone import Backbone
from pt_core.errors import ArtifactError, UserError
from pt_core.method import Method
from pt_core.randomness import seeded
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import TrainOptions, build_all, overlay
from pt_core.run.declare.roles import by_role
from pt_core.run.train.evaluate import predictions
from pt_core.run.train.world import World
from pt_core.task import Task


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
