"""From options to a finished run: resolve, prepare, train, evaluate, save, report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from pt_core.artifact import Artifact, card_of, read_artifact, save_artifact
from pt_core.backbone import Backbone
from pt_core.data import Dataset
from pt_core.errors import ConfigError, DataError, UserError, nearest, require
from pt_core.method import Method
from pt_core.run.evaluate import Evaluation, evaluate
from pt_core.run.features import Store, with_features
from pt_core.run.modality import Modality, RunOptions
from pt_core.run.options import SEEDS, WITHOUT_EFFECT, TrainOptions, build_all, to_plain
from pt_core.run.rundir import RunDir, command_line, environment, now
from pt_core.run.trainer import Interrupted, Trainer, seeded
from pt_core.run.world import World, out_of_memory
from pt_core.task import Task

Say = Callable[[str], None]
TRACKERS = {"tensorboard": "run", "wandb": "wandb"}
"""Tracker -> the extra that installs it."""


@dataclass(frozen=True)
class RunSpec:
    """A fully resolved run."""

    method: str
    config: Any
    train: TrainOptions
    run: RunOptions
    data: Any
    task: Any

    def flat(self) -> dict[str, Any]:
        """All options by name, as `config.yaml` holds them."""
        parts = (self.config, self.train, self.run, self.data, self.task)
        return {key: value for part in parts for key, value in to_plain(part).items()}

    def group(self) -> str:
        """Digest of everything that changes the result but the seeds: runs that share it differ by seed only."""
        flat = {key: value for key, value in self.flat().items() if key not in (*SEEDS, *WITHOUT_EFFECT)}
        return hashlib.sha256(json.dumps([self.method, flat], sort_keys=True).encode()).hexdigest()[:16]


def option_classes(modality: Modality, config: type) -> dict[str, type]:
    """The dataclasses whose fields are flags of `fit`; their field names must not overlap."""
    return {
        "config": config,
        "train": TrainOptions,
        "run": RunOptions,
        "data": modality.data_options,
        "task": modality.task_options,
    }


def resolve(modality: Modality, method: str, values: Mapping[str, Any], recipe: str | None = None) -> RunSpec:
    """Resolve options: defaults < the method's recipe < `recipe` file < `values`.

    Raises:
        ConfigError: all problems at once, before any weight is loaded.
    """
    cls = modality.registry.load(method)
    name = modality.registry.info(method).id
    layers = {**cls.recipe, **(read_recipe(modality, recipe, name) if recipe else {}), **values}
    built = build_all(option_classes(modality, cls.Config), layers)
    return RunSpec(name, **built)


def recipe_folder(modality: Modality) -> Path:
    return modality.registry.folder.parent / "recipes"


def read_recipe(modality: Modality, name: str, method: str) -> dict[str, Any]:
    """Options of a recipe, given as a name or a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else recipe_folder(modality) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in recipe_folder(modality).glob("*.yaml"))) or "none"
        raise ConfigError(f"no recipe {name!r}; known: {known}, or give a .yaml file")
    named, options = read_config(path)
    if named not in (None, method):
        raise ConfigError(f"recipe {name!r} is for {named!r}, not for {method!r}")
    return options


def read_config(path: Path) -> tuple[str | None, dict[str, Any]]:
    """(method, options) of a config.yaml or recipe file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist") from None
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} must hold a mapping of options")
    options = content.get("options", {key: value for key, value in content.items() if key != "method"})
    return content.get("method"), {str(key): value for key, value in options.items()}


@dataclass
class Prepared:
    """Everything a run needs, built and checked."""

    spec: RunSpec
    method: Method
    task: Task
    data: dict[str, Dataset]
    notes: list[str]
    audit: dict[str, Any]


def parse_roles(sources: tuple[str, ...]) -> dict[str, str]:
    """`("DIR",)` or `("train=DIR", "unlabeled=DIR2")` as role -> path; the unnamed one has role ``."""
    roles: dict[str, str] = {}
    for source in sources:
        role, found, path = source.partition("=")
        role, path = (role, path) if found and role.isidentifier() else ("", source)
        if role in roles:
            raise ConfigError(f"--data gives role {role or 'train'!r} twice")
        roles[role] = path
    return roles


def by_role(flag: str, values: Sequence[str], roles: Sequence[str]) -> dict[str, str]:
    """`("SPEC",)` or `("ROLE=SPEC", ...)` as role -> spec; an unnamed one belongs to the only role there is.

    Raises:
        ConfigError: an unknown role, one that is given twice, or no role where there are several.
    """
    chosen: dict[str, str] = {}
    for value in values:
        role, found, spec = value.partition("=")
        if not (found and role.isidentifier()):
            if len(roles) > 1:
                raise ConfigError(f"{flag} {value!r}: this method has the backbones {', '.join(roles)}; give ROLE=...")
            role, spec = roles[0], value
        if role not in roles:
            raise ConfigError(f"{flag} names role {role!r}{nearest(role, roles)}; this method has: {', '.join(roles)}")
        if role in chosen:
            raise ConfigError(f"{flag} gives role {role!r} twice")
        chosen[role] = spec
    return chosen


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
    from pt_core.run.audit import audit
    from pt_core.run.sampling import SubsetDataset, few_shot, hold_out, with_classes

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


def restore_for_training(method: Method, artifact: Artifact) -> None:
    """Load both views of an artifact.

    Raises:
        UserError: its training view was left out.
    """
    if method.export("train") and not artifact.training:
        raise UserError(f"{artifact.folder} was exported with --inference-only: it cannot be tuned further")
    method.restore("predict", artifact.tensors)
    method.restore("train", artifact.training or {})


def execute(
    modality: Modality,
    prepared: Prepared,
    out: Path,
    say: Say,
    resume: bool = False,
    checkpoint: str | None = None,
    allow_topology_change: bool = False,
    report: bool = True,
) -> dict[str, Any]:
    """Train, evaluate and save into the run folder `out`; returns run.json's content."""
    spec, method = prepared.spec, prepared.method
    world = World(spec.train)
    if world.alone:
        say(world.alone)
    for backbone in method.backbones.values():
        backbone.to(world.device)
    method.to(world.device)
    with RunDir(out, world.main).open(resume) as run:
        run.write_config({"method": spec.method, "options": spec.flat()})
        run.update({**_header(modality, prepared), "status": "running", "started": now(), "processes": world.size})
        try:
            return _work(modality, prepared, run, world, say, resume, checkpoint, allow_topology_change, report)
        except Interrupted as stop:
            run.update({"status": "interrupted", "message": stop.message})
            raise
        except Exception as error:
            problem = out_of_memory(error) or error
            told = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
            with suppress(UserError):  # a full disk must not hide the first error
                run.update({"status": "failed", "message": told})
            if problem is error:
                raise
            raise problem from error


def _work(
    modality: Modality,
    prepared: Prepared,
    run: RunDir,
    world: World,
    say: Say,
    resume: bool,
    checkpoint: str | None,
    allow_topology_change: bool,
    report: bool,
) -> dict[str, Any]:
    spec, method = prepared.spec, prepared.method
    options = spec.train
    store = _feature_store(method, spec, say)
    data = {
        role: with_features(method, dataset, world, options.batch_size, store, options.workers)
        for role, dataset in prepared.data.items()
    }
    started = time.perf_counter()
    trainer = Trainer(method, data, options, run, world)
    trainer.fit(resume, checkpoint, allow_topology_change)
    fitted = time.perf_counter()
    finals: dict[str, Evaluation] = {
        role: evaluate(
            method, data[role], world, options.batch_size, options.seed, options.workers, records=role == "test"
        )
        for role in ("val", "test")
        if role in data
    }
    evaluated = time.perf_counter()
    if world.main:
        results = {role: _defined(final.metrics) for role, final in finals.items()}
        for role, metrics in results.items():
            run.log({"stage": "final", "stage_number": 10**6, "step": trainer.done_steps, "split": role, **metrics})
        shown = results.get("test") or results.get("val") or {}
        extra = {
            "versions": {modality.package: modality.version()},
            "metrics": shown,
            "data": _counts(prepared),
            "notes": prepared.notes,
        }
        info = modality.registry.info(spec.method)
        card = card_of(method, f"{modality.package}/{spec.method}", extra, info.backbones)
        save_artifact(run.path / "tuned", method, card)
        run.update(
            {
                "status": "finished",
                "results": results,
                "time": {"fit_seconds": round(fitted - started, 3), "evaluate_seconds": round(evaluated - fitted, 3)},
                "finished": now(),
            }
        )
        if report:
            _write_report(modality, prepared, run, finals)
    world.barrier()
    return RunDir(run.path).status()


def _header(modality: Modality, prepared: Prepared) -> dict[str, Any]:
    spec, method = prepared.spec, prepared.method
    frozen, tuned = frozen_values(method), method.parameter_count()
    info = modality.registry.info(spec.method)
    return {
        "method": f"{modality.package}/{spec.method}",
        "title": info.title,
        "backbone": {"source": sources_of(method), "parameters": frozen},
        "parameters": {"tuned": tuned, "backbone": frozen, "share": tuned / frozen if frozen else None},
        "seeds": {"seed": spec.train.seed} | {kind: spec.train.seed_of(kind) for kind in ("init", "data", "sampling")},  # type: ignore[arg-type]
        "data": _counts(prepared),
        "environment": environment({modality.package: modality.version()}),
        "command": command_line(),
        "group": spec.group(),
        "select": list(prepared.task.select),
        "notes": prepared.notes,
        "audit": prepared.audit,
    }


def _counts(prepared: Prepared) -> dict[str, Any]:
    return {
        "source": list(prepared.spec.run.data),
        "counts": {role: len(dataset) for role, dataset in prepared.data.items()},
        "classes": list(prepared.task.class_names()),
        "identity": {role: dataset.identity() for role, dataset in prepared.data.items()},
    }


def _feature_store(method: Method, spec: RunSpec, say: Say) -> Store:
    from pt_core.run.cache import FeatureCache, default_root

    cache = FeatureCache(default_root(), int(spec.run.cache_limit * 1e9))
    backbones = [method.backbones[role] for role in sorted(method.backbones)]

    def store(key: str, dataset: Dataset, compute: Callable[[Sequence[int]], Iterable[Tensor]]) -> Tensor:
        parts = {
            "backbone": ",".join(backbone.fingerprint().exact for backbone in backbones),
            "preprocessing": json.dumps([dict(backbone.preprocessing) for backbone in backbones], sort_keys=True),
            "data": dataset.identity(),
            "what": key,
            "view": "eval",
            "precision": spec.train.precision,
        }
        return cache.features(parts, len(dataset), compute, say)

    return store


def _write_report(modality: Modality, prepared: Prepared, run: RunDir, finals: Mapping[str, Evaluation]) -> None:
    from pt_core.run.panels import write_panels
    from pt_core.run.report import read_run, write_report

    write_panels(modality, prepared.method, prepared.data, run.path, finals)
    write_report(run.path / "report.html", read_run(run.path))


def _defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics that are undefined on these data (nan) have no place in JSON."""
    return {name: value for name, value in metrics.items() if value == value}


def with_seed(spec: RunSpec, seed: int) -> RunSpec:
    return replace(spec, train=replace(spec.train, seed=seed))
