"""The loop of one stage: draws, micro-batches, schedule, validation, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pt_core.data import Batch, Dataset
from pt_core.errors import ArtifactError, ConfigError
from pt_core.method import Method, assign_tensors
from pt_core.randomness import keyed, sampled_by
from pt_core.run.data.streams import Shard, StreamReader
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.checkpoint import Snapshot, prefixed, unprefixed
from pt_core.run.train.evaluate import evaluate
from pt_core.run.train.optim import lr_factor
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.step import Steps
from pt_core.run.train.world import World
from pt_core.stage import Stage, StepOutput, matches


class StageLoop:
    """Runs one supervised or custom-step stage; `ctx` is what its hooks and custom steps see."""

    def __init__(
        self,
        method: Method,
        stage: Stage,
        number: int,
        data: Mapping[str, Dataset],
        options: TrainOptions,
        world: World,
        run: RunDir,
        log: Callable[[dict[str, Any]], None],
    ) -> None:
        self.method, self.stage, self.number = method, stage, number
        self.acting: Method = stage.acting or method
        self.data, self.options, self.world, self.run = data, options, world, run
        self.log = log
        self.device = world.device
        if stage.step is not None and options.accumulate > 1:
            raise ConfigError(
                f"stage {stage.name!r} steps over whole batches and takes no --accumulate; lower --batch-size instead"
            )
        for name, parameter in method.named_parameters():
            parameter.requires_grad_(matches(name, stage.trains))
        shard = Shard(world.rank, world.size, options.accumulate)
        self.readers: dict[str, StreamReader] = {}
        for name, stream in stage.streams.items():
            if stream.role not in data:
                raise ConfigError(
                    f"stage {stage.name!r} draws from data role {stream.role!r}; given: {', '.join(data) or 'none'}"
                )
            if stream.balanced is None:
                stream = replace(stream, balanced=options.balanced)
            self.readers[name] = StreamReader(
                name,
                stream,
                data[stream.role] if stream.view is None else stream.view(data[stream.role]),
                stream.batch_size or options.batch_size,
                options.seed_of("data"),
                shard,
                options.workers,
            )
        self.per_epoch = next(iter(self.readers.values())).draws_per_epoch if self.readers else 1
        self.steps = options.steps or math.ceil(options.epochs * self.per_epoch)
        self.eval_every = options.eval_every or max(self.per_epoch, math.ceil(self.steps / 20))
        self.ctx = Steps(method, stage, data, options, world, run, self.steps)
        self.optimisers = self.ctx.optimisers
        self.best: dict[str, Tensor] | None = None
        self.best_metric: float | None = None
        self.since_best = 0
        self.results: dict[str, float] = {}
        self.best_results: dict[str, float] | None = None

    @property
    def step(self) -> int:
        """Steps done in this stage."""
        return self.ctx.step

    # ---- the loop ----------------------------------------------------------------------------------------------------------

    def names_at(self, step: int) -> list[str]:
        return list(self.stage.plan(step)) if self.stage.plan is not None else list(self.readers)

    def run_steps(self, between: Callable[[StageLoop], None]) -> Iterator[int]:
        """Train to the end of the stage, yielding after every step; `between` is called where a checkpoint is due."""
        draws = dict.fromkeys(self.readers, 0)
        for step in range(self.step):
            for name in self.names_at(step):
                draws[name] += 1
        for name, reader in self.readers.items():
            reader.start(draws[name])
        checkpoint_every = self.options.checkpoint_every or self.eval_every
        show = self.world.main
        bar = tqdm(
            total=self.steps,
            initial=self.step,
            desc=self.stage.name,
            disable=None if show else True,
            leave=False,
            delay=2,
        )
        self.method.train()
        try:
            while self.step < self.steps and not self._exhausted():
                started = time.perf_counter()
                logs = self._one_step()
                self.ctx.step += 1
                bar.update()
                validate = "val" in self.data and (self.step % self.eval_every == 0 or self.step == self.steps)
                if self.step % 10 == 0 or self.step == self.steps or validate or self.step == 1:
                    self._log_train(logs, time.perf_counter() - started)
                    bar.set_postfix({key: f"{value:.3g}" for key, value in list(logs.items())[:2]})
                if validate:
                    self._validate()
                if self.step % checkpoint_every == 0:
                    between(self)
                yield self.step
        finally:
            bar.close()
            for reader in self.readers.values():
                reader.close()
        if self.best is not None:
            assign_tensors(self.method, self.best, self.best.keys())

    def _exhausted(self) -> bool:
        return self.options.patience is not None and self.since_best >= self.options.patience

    def _one_step(self) -> dict[str, float]:
        for optimiser in self.optimisers.values():
            optimiser.set_lr(lr_factor(self.step, self.steps, self.per_epoch, optimiser.options))
        drawn = {name: self.readers[name].next() for name in self.names_at(self.step)}
        parts = [
            {name: batch for name, cut in drawn.items() if (batch := cut[number]) is not None}
            for number in range(self.options.accumulate)
        ]
        if self.stage.step is not None or self.stage.step_parts is not None:
            return self._custom_step(parts)
        sums: dict[str, float] = {}
        total = 0
        for number, part in enumerate(parts):
            self.ctx.reseed(number)
            for name, drawn_batch in part.items():
                batch = self._keyed(name, number, drawn_batch)
                self.ctx.ids = list(batch.ids)
                with self.world.autocast(), sampled_by(batch.keys):
                    output = self.acting.training_step(batch)
                self.ctx.backward(output.loss, output.count)
                total += output.count
                prefix = f"{name}/" if len(self.stage.streams) > 1 else ""
                _accumulate(sums, output, prefix)
        self.ctx.update()
        return self._averaged(sums, total)

    def _custom_step(self, parts: Sequence[Mapping[str, Batch]]) -> dict[str, float]:
        self.ctx.parts = [
            {name: self._keyed(name, number, batch) for name, batch in part.items()}
            for number, part in enumerate(parts)
        ]
        self.ctx.ids = [sample for part in self.ctx.parts for batch in part.values() for sample in batch.ids]
        self.ctx.reseed(0)
        if self.stage.step_parts is not None:
            logs = self.stage.step_parts(self.ctx)
        else:
            assert self.stage.step is not None
            with self.world.autocast():
                logs = self.stage.step(self.ctx, self.ctx.parts[0])
        return {key: float(torch.as_tensor(value).detach()) for key, value in logs.items()}

    def _keyed(self, stream: str, part: int, batch: Batch) -> Batch:
        """On the device, with a key per sample for everything drawn in this step: the same however the batch is cut."""
        again = self.readers[stream].repeats[part]
        return keyed(
            batch.to(self.device), self.options.seed, "sample", self.stage.name, self.step, stream, occurrence=again
        )

    def _averaged(self, sums: dict[str, float], total: int) -> dict[str, float]:
        """Sums divided by the number of units, over all processes."""
        if self.world.size > 1:
            parts = self.world.gather([(sums, total)])
            total = sum(count for _, count in parts)
            merged: dict[str, float] = {}
            for part, _ in parts:
                for key, value in part.items():
                    merged[key] = merged.get(key, 0.0) + value
            sums = merged
        return {key: value / max(1, total) for key, value in sums.items()}

    def _log_train(self, logs: Mapping[str, float], seconds: float) -> None:
        rates = {
            "lr" if name == "main" else f"lr/{name}": o.inner.param_groups[0]["lr"]
            for name, o in self.optimisers.items()
        }
        norms = {
            "grad_norm" if name == "main" else f"grad_norm/{name}": value for name, value in self.ctx.norms.items()
        }
        self.log({**self._where("train"), **logs, **rates, **norms, "seconds": round(seconds, 5)})

    def _where(self, split: str) -> dict[str, Any]:
        return {"stage": self.stage.name, "stage_number": self.number, "step": self.step, "split": split}

    def _validate(self) -> None:
        data = self.data["val"] if self.stage.evaluates is None else self.stage.evaluates(self.data["val"], self.step)
        if not len(data):
            return
        result = evaluate(
            self.acting, data, self.world, self.options.batch_size, self.options.seed, self.options.workers
        )
        self.method.train()
        self.log({**self._where("val"), **result.metrics})
        self.results = dict(result.metrics)
        chosen = self.method.task.select
        if chosen is None or not (self.stage.select and self.options.select):
            return
        if self.step < min(self.stage.select_from, self.steps):
            return
        name, direction = chosen
        value = result.metrics[name]
        better = self.best_metric is None or (
            value > self.best_metric if direction == "max" else value < self.best_metric
        )
        if better or math.isnan(self.best_metric if self.best_metric is not None else 0.0):
            self.best_metric, self.since_best = value, 0
            self.best = {key: tensor.detach().clone() for key, tensor in self.method.own_tensors().items()}
            self.best_results = dict(result.metrics)
        else:
            self.since_best += 1

    def final_results(self) -> dict[str, float]:
        """Validation metrics of the weights the stage ends with."""
        return dict(self.best_results or self.results)

    # ---- checkpoints -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        tensors = prefixed("method", self.method.own_tensors())
        numbers: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for name, optimiser in self.optimisers.items():
            moments, numbers[name] = optimiser.state()
            counts[name] = len(moments)
            tensors |= prefixed(f"optimiser/{name}", moments)
        if self.best is not None:
            tensors |= prefixed("best", self.best)
        scaler = self.world.scaler
        state: dict[str, Any] = {
            "stage": self.stage.name,
            "stage_number": self.number,
            "step": self.step,
            "processes": self.world.size,
            "best_metric": self.best_metric,
            "best_results": self.best_results,
            "since_best": self.since_best,
            "results": self.results,
            "numbers": numbers,
            "moments": counts,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "skipped": self.ctx.skipped,
        }
        return Snapshot({name: tensor.detach() for name, tensor in tensors.items()}, state)

    def restore(self, snapshot: Snapshot) -> None:
        own = unprefixed("method", snapshot.tensors)
        assign_tensors(self.method, own, self.method.own_tensors().keys())
        state = snapshot.state
        if state["step"] > self.steps:
            raise ArtifactError(
                f"the checkpoint is at step {state['step']:,}, the stage {self.stage.name!r} has {self.steps:,}"
            )
        for name, optimiser in self.optimisers.items():
            moments = unprefixed(f"optimiser/{name}", snapshot.tensors)
            expected = state.get("moments", {}).get(name, len(moments))
            if len(moments) != expected:
                raise ArtifactError(
                    f"the checkpoint has {len(moments)} tensors of optimiser {name!r} instead of {expected}: it cannot be continued exactly"
                )
            optimiser.load_state(moments, state["numbers"].get(name, {}))
        best = unprefixed("best", snapshot.tensors)
        self.best = {name: tensor.to(self.device) for name, tensor in best.items()} or None
        self.best_metric, self.since_best = state["best_metric"], int(state["since_best"])
        self.best_results = state["best_results"]
        self.results = dict(state["results"])
        self.ctx.step = int(state["step"])
        self.ctx.skipped = int(state["skipped"])
        if self.world.scaler is not None and state["scaler"] is not None:
            self.world.scaler.load_state_dict(state["scaler"])


def _accumulate(sums: dict[str, float], output: StepOutput, prefix: str) -> None:
    loss = float(output.loss.detach())
    for key, value in {"loss": loss, **{k: float(v) for k, v in output.logs.items()}}.items():
        sums[prefix + key] = sums.get(prefix + key, 0.0) + value * output.count
