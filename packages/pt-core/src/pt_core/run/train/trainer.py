"""The trainer: drives a method's stages lazily, commits what is finished, and continues a killed run where it stopped.

Nothing of a run's position is hidden state: data order, augmentation and dropout are keyed by (seed, stage, step, part), learning rates
are functions of the step. A checkpoint therefore is tensors, optimiser moments, and a handful of numbers.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pt_core.data import Batch, Dataset, generator
from pt_core.errors import ArtifactError, ConfigError
from pt_core.method import Method, assign_tensors
from pt_core.randomness import keep_rng
from pt_core.run.data.streams import Shard, ordered_batches
from pt_core.run.declare.options import TrainOptions, overlay
from pt_core.run.train.checkpoint import Checkpoints, Snapshot, check_resumable
from pt_core.run.train.loop import StageLoop
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.world import World
from pt_core.stage import Stage

START = "start"


class Interrupted(SystemExit):
    """SIGINT or SIGTERM arrived; the run stopped behind a checkpoint. Exit status 130 or 143."""

    def __init__(self, signum: int, run: Path) -> None:
        super().__init__(128 + signum)
        self.message = f"stopped by {signal.Signals(signum).name}; continue with `resume {run}`"


class Trainer:
    """Trains a method on data roles inside a run folder.

    Args:
        method: built and seeded; moved to the world's device here.
        data: role -> dataset. A role `val` is used for selection.
        options: resolved training options.
        run: opened run folder.
        world: the processes.
        on_step: called after every step with (stage name, step); tests interrupt runs with it.
    """

    def __init__(
        self,
        method: Method,
        data: Mapping[str, Dataset],
        options: TrainOptions,
        run: RunDir,
        world: World,
        on_step: Callable[[str, int], None] | None = None,
    ) -> None:
        self.method, self.data, self.options, self.run, self.world = method.to(world.device), data, options, run, world
        self.on_step = on_step
        self.checkpoints = Checkpoints(run.path)
        self.results: dict[str, dict[str, float]] = {}
        self.done_steps = 0
        self.began = False
        """Whether a step or a job of this run has begun: what is written from then on is kept, whatever happens."""
        self._signal: int | None = None
        self._tracker: Any = None

    def rng(self, *key: int | str) -> torch.Generator:
        return generator(self.options.seed, "stages", *key)

    def fit(self, resume: bool = False, checkpoint: str | None = None, allow_topology_change: bool = False) -> None:
        """Run all stages.

        Raises:
            Interrupted: a signal arrived.
            NonFiniteError: the loss or a gradient is not finite.
            ArtifactError: resuming from damaged or foreign state.
        """
        if self.world.main:
            self.checkpoints.sweep()
        self.world.barrier()
        newest = self.checkpoints.newest(checkpoint) if resume else None
        if newest is not None:
            check_resumable(newest, self.run.options())
        if newest is not None and newest.state["processes"] != self.world.size and not allow_topology_change:
            raise ArtifactError(
                f"the run was trained by {newest.state['processes']} processes and is resumed by {self.world.size}; results are then equal "
                "to rounding only: pass --allow-topology-change to accept that"
            )
        with keep_rng(), self._signals(), self._tracking():
            self._restore_or_commit_start(resume)
            for number, stage in enumerate(self.method.stages(self), start=1):
                self._run_stage(number, stage, newest)
        self.method.eval()

    def _restore_or_commit_start(self, resume: bool) -> None:
        """The state before the first stage is committed too: code between yields must see it again on resume."""
        found = self.checkpoints.committed(0, START) if resume else None
        if found is not None:
            assign_tensors(self.method, found.tensors, self.method.own_tensors().keys())
        elif self.world.main:
            self.checkpoints.commit(0, START, self._state(START, {}))
        self.world.barrier()

    def _state(self, name: str, results: Mapping[str, float], steps: int = 0) -> Snapshot:
        tensors = {key: tensor.detach() for key, tensor in self.method.own_tensors().items()}
        return Snapshot(tensors, {"name": name, "results": dict(results), "steps": steps})

    def _run_stage(self, number: int, stage: Stage, newest: Snapshot | None) -> None:
        if stage.name in self.results:
            raise ConfigError(f"two stages are named {stage.name!r}; names must be unique")
        found = self.checkpoints.committed(number, stage.name)
        if found is not None:
            assign_tensors(self.method, found.tensors, self.method.own_tensors().keys())
            self.began = True
            self.results[stage.name] = dict(found.state["results"])
            self.done_steps += int(found.state["steps"])
            return
        mine = newest if newest is not None and newest.state["stage_number"] == number else None
        if newest is not None and (
            newest.state["stage_number"] > number or (mine and mine.state["stage"] != stage.name)
        ):
            where = f"stage {newest.state['stage_number']} ({newest.state.get('stage')!r})"
            raise ArtifactError(f"the checkpoint is of {where}, but this run is at stage {number} ({stage.name!r})")
        self.run.rewind(number, int(mine.state["step"]) if mine else 0)
        if stage.run is not None:
            results, steps = self._run_job(number, stage), 0
        else:
            results, steps = self._run_loop(number, stage, mine)
        self.results[stage.name] = results
        self.done_steps += steps
        if self.world.main:
            self.checkpoints.commit(number, stage.name, self._state(stage.name, results, steps))
            if stage.run is not None:
                shutil.rmtree(self._job_folder(number, stage), ignore_errors=True)
        self.world.barrier()
        if stage.main_only and not self.world.main:
            self._take_over(number, stage)
        if stage.run is not None:
            self._stop_if_signalled(None)

    def _take_over(self, number: int, stage: Stage) -> None:
        """What the first process committed."""
        found = self.checkpoints.committed(number, stage.name)
        assert found is not None
        assign_tensors(self.method, found.tensors, self.method.own_tensors().keys())
        self.results[stage.name] = dict(found.state["results"])

    def _run_loop(self, number: int, stage: Stage, snapshot: Snapshot | None) -> tuple[dict[str, float], int]:
        options = overlay(self.options, stage.options) if stage.options else self.options
        loop = StageLoop(self.method, stage, number, self.data, options, self.world, self.run, self._log)
        if snapshot is not None:
            loop.restore(snapshot)
        for step in self._watched(loop):
            if self.on_step is not None:
                self.on_step(stage.name, step)
            self._stop_if_signalled(loop)
        return loop.final_results(), loop.step

    def _watched(self, loop: StageLoop) -> Iterator[int]:
        try:
            yield from loop.run_steps(self._save)
        finally:
            self.began = self.began or loop.ctx.began

    def _save(self, loop: StageLoop) -> None:
        if self.world.main:
            taken = loop.snapshot()
            kept = Snapshot(taken.tensors, {**taken.state, "options": self.run.options()})
            self.checkpoints.save(self.done_steps + loop.step, kept)
        self.world.barrier()

    def _run_job(self, number: int, stage: Stage) -> dict[str, float]:
        assert stage.run is not None
        folder = self._job_folder(number, stage)
        if self.world.main:
            folder.mkdir(parents=True, exist_ok=True)
        self.world.barrier()
        job = Job(self, stage, number, folder)
        self.method.eval()
        if self.world.main or not stage.main_only:
            self.began = True
            stage.run(job)
        return job.logged

    def _job_folder(self, number: int, stage: Stage) -> Path:
        return self.run.path / "work" / f"{number:02d}-{stage.name}"

    # ---- surroundings ------------------------------------------------------------------------------------------------------

    def _log(self, values: dict[str, Any]) -> None:
        self.run.log({**values, "time": round(time.time(), 3)})
        if self._tracker is not None:
            numbers = {f"{values['split']}/{k}": v for k, v in values.items() if isinstance(v, float)}
            self._tracker.log(numbers, step=self.done_steps + int(values["step"]))

    @contextmanager
    def _tracking(self) -> Iterator[None]:
        """Accelerate's trackers; they only mirror metrics.jsonl."""
        if not self.options.trackers:
            yield
            return
        from accelerate import Accelerator

        logger = Accelerator(
            cpu=self.world.device.type == "cpu", log_with=list(self.options.trackers), project_dir=str(self.run.path)
        )
        logger.init_trackers("logs")
        self._tracker = logger
        try:
            yield
        finally:
            self._tracker = None
            logger.end_training()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM are remembered and acted on behind the current step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(signum: int, frame: FrameType | None) -> None:
            self._signal = signum

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_if_signalled(self, loop: StageLoop | None) -> None:
        signum = self._signal or 0
        if self.world.size > 1:
            signum = int(max(self.world.gather([signum])))
        if not signum:
            return
        if loop is not None:
            self._save(loop)
        raise Interrupted(signum, self.run.path)


class Job:
    """The context of a job stage."""

    def __init__(self, trainer: Trainer, stage: Stage, number: int, folder: Path) -> None:
        self._trainer, self._stage, self._number = trainer, stage, number
        self.dir = folder
        self.device = trainer.world.device
        self.data = trainer.data
        self.logged: dict[str, float] = {}

    def batches(self, role: str, batch_size: int | None = None) -> Iterator[Batch]:
        options = self._trainer.options
        size = batch_size or options.batch_size
        for batch in ordered_batches(self.data[role], size, options.seed_of("data"), Shard(), options.workers):
            if self._trainer.world.size == 1:  # several processes stop together, behind the job
                self._trainer._stop_if_signalled(None)
            yield batch.to(self.device)

    def rng(self, *key: int | str) -> torch.Generator:
        return generator(self._trainer.options.seed, "job", self._stage.name, *key)

    def log(self, values: Mapping[str, float]) -> None:
        self.logged |= {key: float(value) for key, value in values.items()}
        where = {"stage": self._stage.name, "stage_number": self._number, "step": 0, "split": "train"}
        self._trainer._log({**where, **self.logged})
