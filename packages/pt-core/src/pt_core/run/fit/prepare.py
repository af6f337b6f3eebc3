"""Everything a run needs, loaded, built and checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pt_core.artifact import read_artifact, restore_for_training
from pt_core.backbone import Backbone
from pt_core.data import Dataset
from pt_core.errors import ConfigError, DataError, UserError, require
from pt_core.method import Method
from pt_core.randomness import seeded
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import by_role, parse_roles
from pt_core.run.declare.spec import RunSpec
from pt_core.task import Task

Say = Callable[[str], None]
TRACKERS = {"tensorboard": "run", "wandb": "wandb"}
"""Tracker -> the extra that installs it."""


@dataclass
class Prepared:
    """Everything a run needs, built and checked."""

    spec: RunSpec
    method: Method
    task: Task
    data: dict[str, Dataset]
    notes: list[str]
    audit: dict[str, Any]


def load_backbones(modality: Modality, spec: RunSpec, note: Say) -> dict[str, Backbone]:
    """The backbones a run names, or the built-in ones."""
    roles = list(modality.registry.info(spec.method).backbones)
    sources = by_role("--backbone", spec.run.backbone, roles)
    weights = by_role("--weights", spec.run.weights, roles)
    loaded: dict[str, Backbone] = {}
    for role in roles:
        source = sources.get(role)
        if source is None:
            source = modality.default_backbone(role)
            note(f"no --backbone: using the small built-in {source}; a real pretrained one will do much better")
        loaded[role] = modality.load_backbone(source, weights.get(role), spec.data, role)
    return loaded


def prepare(modality: Modality, spec: RunSpec, say: Say, backbones: Mapping[str, Backbone] | None = None) -> Prepared:
    """Load data and backbones, split, sample, audit, and build the method with its seeded initial values.

    `backbones` are used instead of what the options name.

    Raises:
        DataError, ConfigError, ArtifactError: as their docs say; nothing has been written then.
    """
    from pt_core.run.data.audit import audit
    from pt_core.run.data.sampling import SubsetDataset, few_shot, hold_out, with_classes

    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    if not spec.run.data:
        raise ConfigError("--data is missing: give a folder, a table, or a builtin: name")
    for tracker in spec.train.trackers:
        require(tracker, f"pt-core[{TRACKERS[tracker]}]")
    seed = spec.train.seed_of("sampling")
    raw: dict[str, Dataset] = {}
    for role, path in parse_roles(spec.run.data).items():
        found = modality.load_data(path, spec.data, seed)
        for text in (text for part in found.values() for text in getattr(part, "notes", ())):
            note(text)
        raw |= found if role in ("", "train") else {role: next(iter(found.values()))}
    info = modality.registry.info(spec.method)
    missing = sorted(set(info.needs) - set(raw))
    if missing:
        raise DataError(
            f"method {spec.method!r} needs data role {missing[0]!r} ({info.needs[missing[0]]}): give --data {missing[0]}=PATH"
        )
    report = audit(raw)
    say(report.table())
    for warning in report.warnings:
        note(warning)
    labels = raw["train"].labels if "train" in raw else None
    task = modality.make_task(spec.task, raw)
    raw = {role: with_classes(dataset, task.class_names()) for role, dataset in raw.items()}
    for role, dataset in raw.items():
        task.check_dataset(dataset, role)
    # The test part goes first: it must not depend on how much validation data are asked for.
    absent = [] if "train" not in raw or "val" in raw else ["val"] if "test" in raw else ["test", "val"]
    how = "at random" if labels is None else "stratified"
    for role in absent:
        fraction = getattr(spec.data, f"{role}_fraction", 0.2 if role == "val" else 0.0)
        if fraction > 0:
            size = len(raw["train"])
            raw["train"], raw[role] = hold_out(raw["train"], fraction, seed, task.class_names())
            note(f"no {role} part: {len(raw[role])} of {size} training samples split off ({how}, seed {seed})")
    if spec.run.shots is not None:
        if raw["train"].labels is None:
            raise ConfigError("--shots needs labelled training data")
        chosen = few_shot(raw["train"].labels, spec.run.shots, seed, list(task.class_names()))
        raw["train"] = SubsetDataset(raw["train"], chosen)
    if backbones is None:
        backbones = load_backbones(modality, spec, note)
    data = {
        role: modality.bind(dataset, backbones, task, spec.data, training=role not in ("val", "test"))
        for role, dataset in raw.items()
    }
    cls = modality.registry.load(spec.method)
    with seeded(spec.train.seed_of("init"), "init"):
        method = cls(spec.config, backbones, task)
        method.adopt(data)
    if spec.run.init_from is not None:
        warm_start(
            method,
            f"{modality.package}/{spec.method}",
            Path(spec.run.init_from),
            spec.run.allow_backbone_mismatch,
            note,
        )
    tuned, frozen = method.parameter_count(), frozen_values(method)
    share = f", {tuned / frozen:.2%}" if frozen else ""
    say(f"{spec.method} tunes {tuned:,} parameters on {sources_of(method)} ({frozen:,} frozen{share})")
    return Prepared(spec, method, task, data, notes, report.to_json())


def frozen_values(method: Method) -> int:
    """Number of values of the method's backbones; one that fills two roles counts once."""
    backbones = {id(backbone): backbone for backbone in method.backbones.values()}
    return sum(tensor.numel() for backbone in backbones.values() for tensor in backbone.frozen_tensors())


def sources_of(method: Method) -> str:
    """What the backbones are, for messages and run.json."""
    return ", ".join(dict.fromkeys(backbone.source for backbone in method.backbones.values()))


def warm_start(method: Method, method_id: str, source: Path, allow_mismatch: bool, note: Say) -> None:
    """Load the tuned tensors of an earlier run, training view included."""
    artifact = read_artifact(source, training=True)
    if artifact.method != method_id:
        raise UserError(f"{source} holds a {artifact.method!r}, this run tunes a {method_id!r}")
    for role, backbone in method.backbones.items():
        for text in artifact.check_backbone(role, backbone, allow_mismatch):
            note(text)
    restore_for_training(method, artifact)
