"""Cells: the runs of a study, checked all at once, with names, and with keys that say what each run depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import ConfigError, UserError
from pt_core.run.declare.class_names import read_class_names
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import WITHOUT_EFFECT
from pt_core.run.declare.roles import parse_roles
from pt_core.run.declare.spec import PATHS, RunSpec
from pt_core.run.study.space import Declared, declared

if TYPE_CHECKING:
    from pt_core.run.fit.shelf import Shelf

LONGEST_NAME = 120
Start = tuple[str, Path]
"""(role, run folder): what `--init-from` says."""


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: unique in the study; its folder's name where nothing else lies there.
        told: how the file describes it.
        spec: the run, without the cells it starts from.
        settings: digest of what was asked for, sources by name: equal for two cells that would be one run.
        starts: (role, name of the cell it starts from).
    """

    name: str
    told: Declared
    spec: RunSpec
    settings: str
    starts: tuple[tuple[str, str], ...] = ()

    def started(self, runs: Sequence[Start]) -> RunSpec:
        """The run with the folders that its start cells turned out to be."""
        given = tuple(f"{role}={path}" if role else str(path) for role, path in runs)
        return replace(self.spec, run=replace(self.spec.run, init_from=(*self.spec.run.init_from, *given)))


def plan(modality: Modality, content: Mapping[str, Any]) -> list[Cell]:
    """The cells of a study's content, each after those it starts from; no data and no weights are read.

    Raises:
        ConfigError: all that is wrong with the file, its methods, options, sources and paths.
    """
    told = declared(content)
    specs, problems = _specs(modality, told)
    if problems:
        raise ConfigError(problems)
    cells: list[Cell] = []
    same: dict[str, str] = {}
    for one, name, spec in zip(told, names(told), specs, strict=True):
        starts = tuple((role, cells[at].name) for role, at in one.starts)
        settings = _digest(
            [spec.method, _effective(spec.flat()), [(role, cells[at].settings) for role, at in one.starts]]
        )
        if settings in same:
            problems.append(f"cells {same[settings]} and {name} are the same run; leave one out")
        same.setdefault(settings, name)
        cells.append(Cell(name, one, spec, settings, starts))
    if problems:
        raise ConfigError(problems)
    return cells


def _specs(modality: Modality, told: Sequence[Declared]) -> tuple[list[RunSpec], list[str]]:
    from pt_core.run.fit.settle import settled

    specs: list[RunSpec] = []
    problems: dict[str, None] = {}
    unknown: set[str] = set()
    for one in told:
        if one.method in unknown:
            continue
        values = {**one.options, "seed": one.seed, **({"data": one.sources} if one.sources else {})}
        try:
            modality.registry.info(one.method)
        except UserError as error:
            unknown.add(one.method)
            problems[str(error)] = None
            continue
        try:
            spec, found = settled(modality, one.method, values, one.recipe)
        except ConfigError as error:
            spec, found = None, error.problems
        except UserError as error:
            spec, found = None, [str(error)]
        problems |= dict.fromkeys(f"{one.method}: {problem}" for problem in found)
        if spec is not None:
            specs.append(spec)
    return specs, list(problems)


def names(told: Sequence[Declared]) -> list[str]:
    """A name per cell that tells what it varies; equal ones, and those that are cut, end in a digest."""
    several = {
        "group": len({one.group for one in told}) > 1,
        "data": len({one.data for one in told}) > 1,
    }
    found: list[str] = []
    for one in told:
        parts = [one.group] if several["group"] else []
        parts += [one.method, *([one.data] if several["data"] and one.data else [])]
        parts += [f"{key}={value}" for key, value in one.point.items()] + [f"seed={one.seed}"]
        starts = [f"{role or 'from'}={start_label(told[at])}" for role, at in one.starts]
        name = one.name or "-".join(parts + starts)
        found.append(re.sub(r"[^\w.=+-]+", "_", name).strip("._") or "cell")
    counts = {name: found.count(name) for name in set(found)}
    for number, name in enumerate(found):
        if counts[name] > 1 or len(name) > LONGEST_NAME:
            mark = _digest([str(vars(told[number])), number])[:8]
            found[number] = f"{name[:LONGEST_NAME]}-{mark}"
    return found


def start_label(one: Declared) -> str:
    """What a cell is called where another starts from it."""
    if one.name:
        return one.name
    shown = [one.data, *(f"{key}={value}" for key, value in one.point.items())]
    return ",".join(part for part in shown if part) or one.group or one.method


def content_key(modality: Modality, spec: RunSpec, shelf: Shelf) -> str:
    """Digest of what a run's result depends on: method, hosts and options, the data's content, the networks, the tensors it starts from,
    class names, seeds and versions; where all this lies does not matter."""
    from pt_core.run.fit.prepare import load_backbones, load_roles

    info = modality.registry.joined(spec.method, spec.host_ids)

    def silent(text: str) -> None:
        """Whoever prepares the run says it."""

    load_roles(modality, spec, info, silent, shelf)  # tells what is missing
    seed = spec.train.seed_of("sampling")
    data = {
        role: {part: found.identity() for part, found in shelf.data(modality, path, spec.data, seed).items()}
        for role, path in parse_roles(spec.run.data).items()
    }
    networks = {
        role: [backbone.fingerprint().exact, backbone.structure(), dict(backbone.preprocessing)]
        for role, backbone in load_backbones(modality, spec, info, silent, shelf).items()
    }
    classes = None
    if spec.run.class_names is not None:
        found = read_class_names(spec.run.class_names)
        classes = [list(found.names), found.texts]
    starts = [start_digest(given) for given in spec.run.init_from]
    versions = [modality.version(), *(importlib.metadata.version(name) for name in ("pt-core", "torch"))]
    options = {key: value for key, value in _effective(spec.flat()).items() if key not in PATHS}
    return _digest([spec.method, options, data, networks, starts, classes, versions])


def start_digest(given: str) -> list[Any]:
    """(role, digests of the tuned tensors) of an entry of `--init-from`."""
    from pt_core.sealed import read_manifest

    role, found, path = given.partition("=")
    role, path = (role, path) if found and role.isidentifier() else ("", given)
    folder = Path(path)
    files = read_manifest(folder / "tuned" if (folder / "tuned").is_dir() else folder)["files"]
    return [role, sorted((name, entry) for name, entry in files.items() if name.endswith(".safetensors"))]


def _effective(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key not in WITHOUT_EFFECT}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
