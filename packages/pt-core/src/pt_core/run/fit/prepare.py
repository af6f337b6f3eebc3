"""Everything a run needs, loaded, built and checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pt_core.artifact import Artifact, read_artifact
from pt_core.backbone import Backbone
from pt_core.data import Dataset
from pt_core.dual import DualBackbone
from pt_core.errors import ConfigError, DataError, UserError, require
from pt_core.method import Method
from pt_core.randomness import seeded
from pt_core.run.data.nothing import ClassesOnly
from pt_core.run.data.unlabelled import Unlabelled
from pt_core.run.declare.class_names import read_class_names
from pt_core.run.declare.class_words import read_words, words_note
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.needs import NO_DATA, TRACKERS, TRAINED_NAMES, is_trained, missing_role, no_class_names
from pt_core.run.declare.registry import MethodInfo
from pt_core.run.declare.roles import by_role, parse_roles
from pt_core.run.declare.spec import RunSpec
from pt_core.run.fit.shelf import Shelf
from pt_core.run.tasks.classification import Classification
from pt_core.run.use.load import build_method
from pt_core.task import Task

Say = Callable[[str], None]


@dataclass
class Prepared:
    """Everything a run needs, built and checked."""

    spec: RunSpec
    info: MethodInfo
    method: Method
    task: Task
    data: dict[str, Dataset]
    notes: list[str]
    audit: dict[str, Any]


def prepare(
    modality: Modality,
    spec: RunSpec,
    say: Say,
    backbones: Mapping[str, Backbone] | None = None,
    shelf: Shelf | None = None,
) -> Prepared:
    """Load data and backbones, split, sample, audit, and build the method with its seeded initial values.

    `backbones` are used instead of what the options name; `shelf` holds what earlier runs of this process have read.

    Raises:
        DataError, ConfigError, ArtifactError: as their docs say; nothing has been written then.
    """
    from pt_core.run.data.audit import audit

    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    for tracker in spec.train.trackers:
        require(tracker, f"pt-core[{TRACKERS[tracker]}]")
    info = modality.registry.joined(spec.method, spec.host_ids)
    shelf = shelf or Shelf()
    raw = load_roles(modality, spec, info, note, shelf)
    report = audit(raw)
    if raw:
        say(report.table())
    for warning in report.warnings:
        note(warning)
    task, raw = task_and_parts(modality, spec, info, raw, note)
    for role in ("val", "test"):
        for text in task.undefined(raw[role], role) if role in raw else ():
            note(text)
    if backbones is None:
        backbones = load_backbones(modality, spec, info, note, shelf)
    told = words_note(task.class_names(), dict(zip(task.class_names(), task.class_words(), strict=True)))
    if (
        told is not None
        and spec.run.class_names is None
        and any(isinstance(one, DualBackbone) for one in backbones.values())
    ):
        note(told)
    for backbone in backbones.values():
        backbone.fingerprint()  # what the card will need: a network whose probe fails is told before training
    data = {
        role: modality.bind(dataset, backbones, task, spec.data, training=role not in ("val", "test"))
        for role, dataset in raw.items()
    }
    hidden = {role for role in data if role in info.roles and info.roles[role].labels == "none"}
    data |= {role: Unlabelled(data[role]) for role in hidden if data[role].labels is not None}
    with seeded(spec.train.seed_of("init"), "init"):
        method = build_method(modality.registry, spec.method, spec.config, spec.hosts, backbones, task)
        method.adopted = data
        method.adopt(data)
    start_from(modality, method, spec, note)
    tuned, frozen = method.parameter_count(), frozen_values(method)
    share = f", {tuned / frozen:.2%}" if frozen else ""
    say(f"{spec.method} tunes {tuned:,} parameters on {sources_of(method)} ({frozen:,} frozen{share})")
    return Prepared(spec, info, method, task, data, notes, report.to_json())


def task_and_parts(
    modality: Modality, spec: RunSpec, info: MethodInfo, raw: Mapping[str, Dataset], note: Say
) -> tuple[Task, dict[str, Dataset]]:
    """(the task of a run, its data in the task's classes, with the parts that are split off and the few shots chosen)."""
    trained = is_trained(info)
    if trained and spec.run.class_names is not None and not modality.class_texts:
        raise ConfigError(TRAINED_NAMES)
    task = modality.make_task(spec.task, raw if trained else {**raw, "train": _classes_only(spec)})
    if trained and spec.run.class_names is not None:
        if not isinstance(task, Classification):
            raise ConfigError(TRAINED_NAMES)
        task = task.with_words(read_words(Path(spec.run.class_names), task.class_names()))
        note(words_note(task.labels, task.given_words) or "every class name stands for itself")
    own = {role for role in raw if role in info.roles and info.roles[role].labels != "task"}
    return task, split_roles(spec, info, {**raw, **in_label_space(raw, task, own)}, task, note)


def load_roles(modality: Modality, spec: RunSpec, info: MethodInfo, note: Say, shelf: Shelf) -> dict[str, Dataset]:
    """Role -> dataset, as the paths give them.

    Raises:
        ConfigError, DataError: data are missing, or a role that the method needs.
    """
    required = {role: need for role, need in info.roles.items() if not need.optional}
    if not spec.run.data and required:
        raise ConfigError(NO_DATA)
    raw: dict[str, Dataset] = {}
    for role, path in parse_roles(spec.run.data).items():
        found = shelf.data(modality, path, spec.data, spec.train.seed_of("sampling"))
        for text in (text for part in found.values() for text in getattr(part, "notes", ())):
            note(text)
        raw |= found if role in ("", "train") else {role: next(iter(found.values()))}
    missing = sorted(set(required) - set(raw))
    if missing:
        raise DataError(missing_role(info, missing[0]))
    return raw


def _classes_only(spec: RunSpec) -> ClassesOnly:
    if spec.run.class_names is None:
        raise ConfigError(no_class_names(spec.method))
    found = read_class_names(spec.run.class_names)
    return ClassesOnly(found.names, found.texts)


def in_label_space(raw: Mapping[str, Dataset], task: Task, own: set[str]) -> dict[str, Dataset]:
    """The roles in the run's classes, checked; roles in `own` have other labels, or none, and stay as they are."""
    from pt_core.run.data.sampling import with_classes

    placed = {role: with_classes(data, task.class_names()) for role, data in raw.items() if role not in own}
    for role, dataset in placed.items():
        task.check_dataset(dataset, role)
    return placed


def split_roles(
    spec: RunSpec, info: MethodInfo, raw: Mapping[str, Dataset], task: Task, note: Say
) -> dict[str, Dataset]:
    """With validation and test parts split off the training part where they are missing, and the few shots chosen."""
    from pt_core.run.data.sampling import SubsetDataset, few_shot, fewer_shots, hold_out

    data, seed = dict(raw), spec.train.seed_of("sampling")
    if "train" not in data:
        return data
    labels = data["train"].labels
    # The test part goes first: it must not depend on how much validation data are asked for.
    absent = [] if "val" in data else ["val"] if "test" in data else ["test", "val"]
    if "train" in info.roles and not info.roles["train"].split:
        absent = []
    how = "at random" if labels is None else "stratified"
    for role in absent:
        fraction = getattr(spec.data, f"{role}_fraction", 0.2 if role == "val" else 0.0)
        size = len(data["train"])
        if fraction > 0 and size > 1:
            data["train"], data[role] = hold_out(data["train"], fraction, seed, task.class_names())
            note(f"no {role} part: {len(data[role])} of {size} training samples split off ({how}, seed {seed})")
    if spec.run.shots is not None:
        own = data["train"].labels
        if own is None:
            raise ConfigError("--shots needs labelled training data")
        names = list(task.class_names())
        chosen = few_shot(own, spec.run.shots, seed, names, spec.run.exact_shots)
        short = fewer_shots(own, spec.run.shots, names)
        if short is not None:
            note(short)
        data["train"] = SubsetDataset(data["train"], chosen)
    return data


def load_backbones(
    modality: Modality, spec: RunSpec, info: MethodInfo, note: Say, shelf: Shelf | None = None
) -> dict[str, Backbone]:
    """The backbones a run names, or the built-in ones."""
    shelf = shelf or Shelf()
    roles = list(info.backbones)
    sources = by_role("--backbone", spec.run.backbone, roles)
    weights = by_role("--weights", spec.run.weights, roles)
    loaded: dict[str, Backbone] = {}
    for role in roles:
        source = sources.get(role)
        if source is None:
            source = modality.default_backbone(role)
            note(f"no --backbone: using the small built-in {source}; a real pretrained one will do much better")
        loaded[role] = shelf.network(modality, source, weights.get(role), spec.data, role)
    return loaded


def start_from(modality: Modality, method: Method, spec: RunSpec, note: Say) -> None:
    """Warm starts: every role's runs, averaged where there are several, go to the method's `warm_start`.

    Raises:
        UserError: a run is of another package, or several of one role are not of one kind.
        BackboneMismatch: a run was tuned on another backbone.
    """
    runs: dict[str, list[Path]] = {}
    for given in spec.run.init_from:
        role, found, path = given.partition("=")
        role, path = (role, path) if found and role.isidentifier() else ("", given)
        runs.setdefault(role, []).append(Path(path))
    for role, paths in runs.items():
        artifacts = [read_artifact(path, training=True) for path in paths]
        for artifact in artifacts:
            package = artifact.method.partition("/")[0]
            if package != modality.package:
                raise UserError(f"{artifact.folder} belongs to {package!r}, this is {modality.package!r}")
            for name, backbone in method.backbones.items():
                if name in artifact.card["backbones"]:
                    for text in artifact.check_backbone(name, backbone, spec.run.allow_backbone_mismatch):
                        note(text)
        method.warm_start(role, averaged(artifacts))


def averaged(artifacts: Sequence[Artifact]) -> Artifact:
    """One artifact with the mean of the tensors of several runs of one setting.

    Raises:
        UserError: they are of different methods, or their tensors differ in name or shape.
    """
    from dataclasses import replace

    first = artifacts[0]
    shapes = {name: tensor.shape for name, tensor in first.tensors.items()}
    for other in artifacts[1:]:
        same = {name: t.shape for name, t in other.tensors.items()} == shapes
        same = same and set(other.training or {}) == set(first.training or {})
        same = same and other.card["task"].get("labels") == first.card["task"].get("labels")
        if other.method != first.method or not same:
            raise UserError(
                f"{first.folder} and {other.folder} tuned different tensors, or other classes: they have no mean to start from"
            )
    if len(artifacts) == 1:
        return first

    def mean(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {
            name: torch.stack([part[name] for part in parts]).mean(0) if tensor.is_floating_point() else tensor
            for name, tensor in parts[0].items()
        }

    training = mean([artifact.training or {} for artifact in artifacts])
    return replace(first, tensors=mean([artifact.tensors for artifact in artifacts]), training=training)


def frozen_values(method: Method) -> int:
    """Number of values of the method's backbones; one that fills two roles counts once."""
    backbones = {id(backbone): backbone for backbone in method.backbones.values()}
    return sum(tensor.numel() for backbone in backbones.values() for tensor in backbone.frozen_tensors())


def sources_of(method: Method) -> str:
    """What the backbones are, for messages and run.json."""
    return ", ".join(dict.fromkeys(backbone.source for backbone in method.backbones.values()))
