"""Tuned artifacts to methods on their networks, and networks with the weights that an earlier run tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pt_core.artifact import Artifact, read_artifact
from pt_core.backbone import Backbone
from pt_core.bounded import built_within
from pt_core.errors import ArtifactError, UserError
from pt_core.method import Method
from pt_core.randomness import seeded
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import build_all
from pt_core.run.declare.registry import Registry
from pt_core.run.declare.roles import RUN, by_role, located
from pt_core.run.declare.spec import HostSpec
from pt_core.saving import restore_for_training
from pt_core.strategy import Strategy
from pt_core.task import Task

MODULE = "module:"
MAX_CHAIN = 8
"""Runs whose networks are runs whose networks are runs ... that are followed."""

Sources = str | Backbone | nn.Module | Sequence[str] | Mapping[str, Any] | None
"""A backbone, a network of one's own (or a weight file) for the only role, role -> one of them, or texts such as `ROLE=SPEC`."""


@dataclass(frozen=True)
class Tuned:
    """A tuned method, the card of its artifact, and what was noticed while loading."""

    method: Method
    card: Mapping[str, Any]
    notes: list[str]


def build_method(
    registry: Registry,
    method_id: str,
    config: Any,
    hosts: Mapping[str, HostSpec],
    backbones: Mapping[str, Backbone],
    task: Task,
) -> Method:
    """A method with initial values from the generators' state; of a strategy the hosts are built first.

    Raises:
        UserError: the strategy leaves an artifact that cannot hold what it tunes.
    """
    built = {role: registry.load(host.method)(host.config, backbones, task) for role, host in hosts.items()}
    cls: Any = registry.load(method_id)
    method: Method = cls(config, backbones, task, built) if hosts else cls(config, backbones, task)
    if isinstance(method, Strategy):
        method.left_behind()
    return method


def load_tuned(
    modality: Modality,
    run: Path,
    *,
    backbone: Sources = None,
    weights: Sources = None,
    allow_backbone_mismatch: bool = False,
    training: bool = False,
    chain: int = 0,
) -> Tuned:
    """The method of a run folder or its `tuned/`; `training=True` loads what further tuning needs as well.

    `backbone` and `weights` replace the recorded sources: for the only role, or role -> value.

    Raises:
        ArtifactError: damaged, too new, or of another package.
        BackboneMismatch: the backbone's weights, behaviour or preprocessing are not those it was tuned on.
    """
    artifact = read_artifact(run, training)
    package, _, name = artifact.method.partition("/")
    if package != modality.package:
        raise UserError(f"{run} belongs to {package!r}: use `{package} predict`")
    cls = modality.registry.load(name)
    config = build_all({"config": cls.Config}, artifact.card["config"], context="option in card.json")["config"]
    hosts = {role: _host(modality.registry, role, entry) for role, entry in artifact.card["hosts"].items()}
    task = modality.task_from_json(artifact.card["task"])
    recorded = artifact.card["backbones"]
    roles = [role for role, entry in recorded.items() if training or "predict" in entry.get("needed_for", "predict")]
    sources, files = _per_role("--backbone", backbone, roles), _per_role("--weights", weights, roles)
    networks: dict[str, Backbone] = {}
    notes: list[str] = []
    for role in roles:
        source = sources.get(role, recorded[role]["source"])
        file = files.get(role, None if role in sources else recorded[role].get("weights"))
        if isinstance(source, nn.Module):
            network = modality.backbone_of(source)
        elif isinstance(source, Backbone):
            network = source
        else:
            prepared = recorded[role].get("preprocessing", {})
            network = load_network(modality, source, file, None, role, chain, prepared)
        notes += artifact.check_backbone(role, network, allow_backbone_mismatch)
        networks[role] = network

    def build() -> Method:
        return build_method(modality.registry, name, config, hosts, networks, task)

    if training:
        method = _arbitrary(build, artifact, training)
        restore_for_training(method, artifact)
    else:
        method = _restored(build, artifact)
    return Tuned(method, artifact.card, notes)


def load_network(
    modality: Modality,
    source: str,
    weights: str | None,
    options: Any | None,
    role: str,
    chain: int = 0,
    prepared: Mapping[str, Any] | None = None,
) -> Backbone:
    """The backbone behind a spec; `run:RUN` is the network of an earlier run with the weights that it tuned. `prepared` is what
    an artifact says of its preprocessing.

    Raises:
        UserError: the earlier run tuned no weights, or has no network in this role.
    """
    if source.startswith(MODULE):
        raise UserError(f"it was tuned on a {source.removeprefix(MODULE)} of your own: pass that network as backbone=")
    if not source.startswith(RUN):
        if prepared is not None:
            return modality.reload_backbone(source, weights, prepared, role)
        return modality.load_backbone(source, weights, options, role)
    if weights is not None:
        raise UserError(f"--weights {weights}: {source} brings its own weights")
    if chain >= MAX_CHAIN:
        raise UserError(f"{source}: more than {MAX_CHAIN} runs build on each other; export the network once")
    method = load_tuned(modality, Path(source.removeprefix(RUN)), chain=chain + 1).method
    folded = method.folded()
    if role not in folded:
        raise UserError(f"{source} tuned the weights of {', '.join(folded)}, not of {role!r}")
    return method.backbones[role].replaced(folded[role], located(source))


def _per_role(flag: str, given: Sources, roles: Sequence[str]) -> dict[str, Any]:
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    if isinstance(given, (Backbone, nn.Module)):
        if len(roles) > 1:
            raise UserError(f"this method has the backbones {', '.join(roles)}; pass a mapping role -> backbone")
        return {roles[0]: given}
    return by_role(flag, (given,) if isinstance(given, str) else given, roles)


def _host(registry: Registry, role: str, entry: Mapping[str, Any]) -> HostSpec:
    cls = registry.load(str(entry["method"]))
    config = build_all({"config": cls.Config}, entry["config"], context=f"option of {role} in card.json")["config"]
    return HostSpec(str(entry["method"]), config)


def _restored(build: Callable[[], Method], artifact: Artifact) -> Method:
    """The method with the artifact's values, for prediction."""
    try:
        with seeded(0, "load"):
            method = built_within(build)
        if method is not None:
            method.restore("predict", artifact.tensors)
            return method
    except BUILDING as error:
        raise _unbuilt(artifact, error) from error
    method = _arbitrary(build, artifact)
    method.restore("predict", artifact.tensors)
    return method


def _arbitrary(build: Callable[[], Method], artifact: Artifact, training: bool = False) -> Method:
    """The method with arbitrary values. A card is input from elsewhere: an absurd size in it must fail by name, not by memory."""
    try:
        with seeded(0, "load"):
            try:
                with torch.device("meta"):
                    shapes = built_within(build, math.inf)
            except (NotImplementedError, RuntimeError):
                shapes = None  # a method that reads values while it is built
            if shapes is None:
                method = built_within(build, MOST_READ)
                if method is None:
                    raise ValueError(f"it would make more than {MOST_READ:,} values")
                return method
            if training:
                restore_for_training(shapes, artifact)
            else:
                shapes.restore("predict", artifact.tensors)
            return build()
    except BUILDING as error:
        raise _unbuilt(artifact, error) from error


MOST_READ = 2**32
"""Values that a method may make that cannot be built without memory. The count is crude, and on the safe side."""
BUILDING = (KeyError, RuntimeError, MemoryError, OverflowError, TypeError, ValueError)
"""What a configuration that makes no sense ends in."""


def _unbuilt(artifact: Artifact, error: BaseException) -> ArtifactError:
    reason = " ".join(str(error).split())[:160]
    return ArtifactError(f"{artifact.folder}: its configuration cannot be built ({reason})")
