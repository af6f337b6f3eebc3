"""Train, evaluate, save and report, inside a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pt_core.data import Dataset
from pt_core.errors import UserError
from pt_core.method import Method
from pt_core.run.data.tables import write_files
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import to_plain
from pt_core.run.declare.process import without_collector
from pt_core.run.declare.spec import RunSpec
from pt_core.run.fit.prepare import Prepared, Say, frozen_values, sources_of
from pt_core.run.train.evaluate import evaluate
from pt_core.run.train.features import Store, with_features
from pt_core.run.train.rundir import RunDir, command_line, environment, now
from pt_core.run.train.trainer import Interrupted, Trainer
from pt_core.run.train.world import World, lost_process, out_of_memory
from pt_core.saving import card_of, save_artifact
from pt_core.strategy import Strategy
from pt_core.task import Evaluation

FINAL = 10**6
"""Stage number of the last evaluations, behind all stages."""


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
    """Train, evaluate and save into the run folder `out`; returns run.json's content.

    A new run that is refused before its first step leaves nothing behind.
    """
    spec, method = prepared.spec, prepared.method
    world = World(spec.train)
    if world.alone:
        say(world.alone)
    for backbone in method.backbones.values():
        backbone.to(world.device)
    method.to(world.device)
    with RunDir(out, world.main).open(resume) as run:
        work: _Work | None = None
        try:
            work = _Work(modality, prepared, run, world, say)
            run.update({**_header(modality, prepared), "status": "running", "started": now(), "processes": world.size})
            run.write_config({"method": spec.method, "options": spec.flat()})
            started = time.perf_counter()
            work.trainer.fit(resume, checkpoint, allow_topology_change)
            return work.finish(time.perf_counter() - started, report, resume)
        except Interrupted as stop:
            run.update({"status": "interrupted", "message": stop.message})
            raise
        except Exception as error:
            problem = out_of_memory(error) or lost_process(error) or error
            if isinstance(problem, UserError) and not resume and not (work and work.trainer.began):
                run.discard()
            else:
                told = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
                with suppress(UserError):  # a full disk must not hide the first error
                    run.update({"status": "failed", "message": told})
            if problem is error:
                raise
            raise problem from error


class _Work:
    """A run's trainer over its prepared data, and what follows when it is done."""

    def __init__(self, modality: Modality, prepared: Prepared, run: RunDir, world: World, say: Say) -> None:
        self.modality, self.prepared, self.run, self.world = modality, prepared, run, world
        self.options = options = prepared.spec.train
        store = _feature_store(prepared.method, prepared.spec, say)
        self.data = {
            role: with_features(prepared.method, dataset, world, options.batch_size, store, options.workers)
            for role, dataset in prepared.data.items()
        }
        self.trainer = Trainer(prepared.method, self.data, options, run, world)

    def finish(self, fit_seconds: float, report: bool, again: bool) -> dict[str, Any]:
        """Evaluate, save the artifact, write the report; returns run.json's content."""
        started = time.perf_counter()
        finals: dict[str, Evaluation] = {role: self._evaluate(role) for role in ("val", "test") if role in self.data}
        seconds = {"fit_seconds": round(fit_seconds, 3), "evaluate_seconds": round(time.perf_counter() - started, 3)}
        if self.world.main:
            if again:  # it may have been stopped here before
                self.run.rewind(FINAL - 1, 0)
            results = {role: _defined(final.metrics) for role, final in finals.items()}
            for role, metrics in results.items():
                where = {"stage": "final", "stage_number": FINAL, "step": self.trainer.done_steps, "split": role}
                self.run.log({**where, **metrics})
            extra = {
                "versions": {self.modality.package: self.modality.version()},
                "metrics": results.get("test") or results.get("val") or {},
                "data": _counts(self.prepared),
                "notes": self.prepared.notes,
            }
            _save(self.modality, self.prepared, self.run.path / "tuned", extra)
            # Finished is a run whose report is there: one that is stopped before writes it when it is resumed.
            names = dict.fromkeys(name for final in finals.values() for name in final.metrics)
            directions = self.prepared.task.directions(names)
            self.run.update({"results": results, "directions": directions, "time": seconds})
            done = {"status": "finished", "finished": now()}
            if report:
                _write_report(self.modality, self.prepared, self.run, finals, done)
            self.run.update(done)
        self.world.barrier()
        return RunDir(self.run.path).status()

    def _evaluate(self, role: str) -> Evaluation:
        o = self.options
        records = role == "test"
        keep = partial(write_files, self.run.path / "predictions" / role) if records else None
        method = self.prepared.method
        return evaluate(method, self.data[role], self.world, o.batch_size, o.seed, o.workers, records, keep)


def _header(modality: Modality, prepared: Prepared) -> dict[str, Any]:
    spec, method = prepared.spec, prepared.method
    frozen, tuned = frozen_values(method), method.parameter_count()
    return {
        "method": f"{modality.package}/{spec.method}",
        "title": prepared.info.title,
        "backbone": {"source": sources_of(method), "parameters": frozen},
        "parameters": {"tuned": tuned, "backbone": frozen, "share": tuned / frozen if frozen else None},
        "seeds": {"seed": spec.train.seed} | {kind: spec.train.seed_of(kind) for kind in ("init", "data", "sampling")},  # type: ignore[arg-type]
        "data": _counts(prepared),
        "environment": environment({modality.package: modality.version()}),
        "command": command_line(),
        "group": spec.group(),
        "select": list(prepared.task.select or ()),
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


def _save(modality: Modality, prepared: Prepared, folder: Path, extra: dict[str, Any]) -> None:
    """The artifact: the method's own, or that of the host that a strategy leaves behind."""
    method, name = prepared.method, prepared.spec.method
    if isinstance(method, Strategy) and method.leaves:
        extra["made_by"] = {"method": f"{modality.package}/{name}", "config": to_plain(method.config)}
        method = method.left_behind()
        name = method.method_id
    card = card_of(method, f"{modality.package}/{name}", extra, prepared.info.backbones)
    save_artifact(folder, method, card)


def _feature_store(method: Method, spec: RunSpec, say: Say) -> Store:
    from pt_core.run.data.cache import FeatureCache, default_root

    cache = FeatureCache(default_root(), int(spec.run.cache_limit * 1e9))
    backbones = [method.backbones[role] for role in sorted(method.backbones)]

    def store(key: str, dataset: Dataset, compute: Callable[[Sequence[int]], Iterable[Tensor]]) -> Tensor:
        parts = {
            "backbone": ",".join(backbone.fingerprint().exact for backbone in backbones),
            "network": ",".join(backbone.structure() for backbone in backbones),
            "preprocessing": json.dumps([dict(backbone.preprocessing) for backbone in backbones], sort_keys=True),
            "data": dataset.identity(),
            "what": key,
            "view": "eval",
            "precision": spec.train.precision,
        }
        return cache.features(parts, len(dataset), compute, say)

    return store


def _write_report(
    modality: Modality, prepared: Prepared, run: RunDir, finals: Mapping[str, Evaluation], done: Mapping[str, Any]
) -> None:
    from pt_core.run.report import read_run, write_report
    from pt_core.run.report.collect import write_panels

    write_panels(modality, prepared.method, prepared.data, run.path, finals)
    found = read_run(run.path, done)
    with without_collector():  # plots are many small objects that refer to each other
        write_report(run.path / "report.html", found)


def _defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics that are undefined on these data (nan) have no place in JSON."""
    return {name: value for name, value in metrics.items() if value == value}
