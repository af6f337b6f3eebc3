"""The loop of one stage: draws, micro-batches, gradients over processes, schedule, validation, checkpoints."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pt_core.data import Batch, Dataset, generator, stable_seed
from pt_core.errors import ConfigError, NonFiniteError
from pt_core.method import Method, Stage, StepOutput, assign_tensors, matches
from pt_core.run.data.streams import Shard, StreamReader
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.checkpoint import Snapshot, prefixed, unprefixed
from pt_core.run.train.evaluate import evaluate
from pt_core.run.train.optim import NamedOptimiser, build_optimisers, lr_factor
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.world import World
from pt_core.sealed import write_text

MAX_SKIPPED = 20
"""fp16 steps skipped in a row before the run gives up."""


class StageLoop:
    """Runs one supervised or custom-step stage. It is the `StepContext` that hooks and custom steps see."""

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
        self.data, self.options, self.world, self.run = data, options, world, run
        self.log = log
        self.device = world.device
        if stage.step is not None and options.accumulate > 1:
            raise ConfigError(
                f"stage {stage.name!r} steps by itself and takes no --accumulate; lower --batch-size instead"
            )
        for name, parameter in method.named_parameters():
            parameter.requires_grad_(matches(name, stage.trains))
        self.optimisers: dict[str, NamedOptimiser] = build_optimisers(method, stage, options)
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
        self.step = 0
        self.best: dict[str, Tensor] | None = None
        self.best_metric: float | None = None
        self.since_best = 0
        self.results: dict[str, float] = {}
        self.best_results: dict[str, float] | None = None
        self._pending = 0.0
        self._bad: list[str] = []
        self._bad_loss = float("nan")
        self._ids: list[str] = []
        self._norms: dict[str, float] = {}
        self._skipped = 0

    # ---- StepContext -------------------------------------------------------------------------------------------------------

    def rng(self, *key: int | str) -> torch.Generator:
        return generator(self.options.seed, "step", self.stage.name, self.step, *key)

    def reduce(self, values: Tensor) -> Tensor:
        return self.world.sum_(values.detach().clone())

    def backward(self, loss: Tensor, count: int, retain_graph: bool = False) -> None:
        """Accumulate the gradient of loss * count. A non-finite loss is remembered; `update` stops all processes together."""
        if not bool(torch.isfinite(loss.detach())):
            self._bad, self._bad_loss = list(self._ids), float(loss.detach())
            return
        total = loss.float() * count
        scaler = self.world.scaler
        (scaler.scale(total) if scaler is not None else total).backward(retain_graph=retain_graph)
        self._pending += count

    def update(self, optimiser: str = "main", clip: bool = True) -> float:
        """Average gradients over everything since the last update, clip, step and zero. Returns the gradient norm."""
        chosen = self.optimisers[optimiser]
        count = self._reduce_gradients(chosen)
        scaler = self.world.scaler
        if scaler is not None:
            scaler.unscale_(chosen.inner)
        if self.stage.after_backward is not None:
            self.stage.after_backward(self)
        gradients = [p.grad for p in chosen.parameters if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))) if gradients else 0.0
        if not math.isfinite(norm) and scaler is None:
            self._fail("gradient norm", norm, self.world.gather(self._ids))
        if clip and self.options.clip_norm is not None and norm > self.options.clip_norm:
            for gradient in gradients:
                gradient.mul_(self.options.clip_norm / (norm + 1e-6))
        if count > 0:
            self._step_optimiser(chosen, scaler)
        chosen.inner.zero_grad(set_to_none=True)
        self._norms[optimiser] = norm
        self._pending = 0.0
        if self.stage.after_step is not None:
            self.stage.after_step(self)
        return norm

    def _step_optimiser(self, chosen: NamedOptimiser, scaler: torch.amp.GradScaler | None) -> None:
        if scaler is None:
            chosen.inner.step()
            return
        before = scaler.get_scale()
        scaler.step(chosen.inner)
        scaler.update()
        self._skipped = self._skipped + 1 if scaler.get_scale() < before else 0
        if self._skipped >= MAX_SKIPPED:
            raise NonFiniteError(
                f"fp16 gradients overflowed {MAX_SKIPPED} times in a row at step {self.step}; use --precision bf16 or fp32"
            )

    def _reduce_gradients(self, chosen: NamedOptimiser) -> float:
        """One flat all-reduce of sums, presence flags, the sample count and the non-finite flag; then divide by the count."""
        parameters = chosen.parameters
        flags = torch.tensor(
            [self._pending, float(bool(self._bad)), *(float(p.grad is not None) for p in parameters)],
            device=self.device,
        )
        if self.world.size > 1:
            flat = torch.cat(
                [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten().float() for p in parameters]
                + [flags]
            )
            self.world.sum_(flat)
            flags = flat[-len(flags) :]
            position = 0
            for parameter, present in zip(parameters, flags[2:].tolist(), strict=True):
                part = flat[position : position + parameter.numel()]
                position += parameter.numel()
                parameter.grad = part.view_as(parameter).to(parameter.dtype) if present else None
        if flags[1] > 0:
            self._fail("loss", self._bad_loss, self.world.gather(self._bad))
        count = float(flags[0])
        if count > 0:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(count)
        return count

    def _fail(self, what: str, value: float, ids: list[str]) -> None:
        norms = {
            name: float(tensor.detach().norm())
            for name, tensor in self.method.named_parameters()
            if tensor.requires_grad
        }
        if self.world.main:
            dump = {
                "stage": self.stage.name,
                "step": self.step,
                what: str(value),
                "samples": ids,
                "tensor_norms": norms,
            }
            write_text(self.run.path / "failure.json", json.dumps(dump, indent=1))
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        raise NonFiniteError(
            f"{what} is {value} at step {self.step} of stage {self.stage.name!r} (samples: {shown}); details in failure.json, the last "
            "good checkpoint is kept; lower --lr or inspect these samples"
        )

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
                self.step += 1
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
        if self.stage.step is not None:
            return self._custom_step(drawn)
        sums: dict[str, float] = {}
        total = 0
        for part in range(self.options.accumulate):
            batches = {name: batch for name, parts in drawn.items() if (batch := parts[part]) is not None}
            # Each micro-batch has its own key, whichever process runs it: dropout does not depend on the number of processes.
            self._seed_all(self.world.rank * self.options.accumulate + part)
            for name, batch in batches.items():
                self._ids = list(batch.ids)
                with self.world.autocast():
                    output = self.method.training_step(batch.to(self.device))
                self.backward(output.loss, output.count)
                total += output.count
                prefix = f"{name}/" if len(self.stage.streams) > 1 else ""
                _accumulate(sums, output, prefix)
        self.update()
        return self._averaged(sums, total)

    def _custom_step(self, drawn: Mapping[str, list[Batch | None]]) -> dict[str, float]:
        batches = {name: parts[0].to(self.device) for name, parts in drawn.items() if parts[0] is not None}
        self._ids = [sample for batch in batches.values() for sample in batch.ids]
        self._seed_all(self.world.rank)
        assert self.stage.step is not None
        with self.world.autocast():
            logs = self.stage.step(self, batches)
        return {key: float(value) for key, value in logs.items()}

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

    def _seed_all(self, part: int) -> None:
        seed = stable_seed(self.options.seed, "micro", self.stage.name, self.step, part)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _log_train(self, logs: Mapping[str, float], seconds: float) -> None:
        rates = {
            "lr" if name == "main" else f"lr/{name}": o.inner.param_groups[0]["lr"]
            for name, o in self.optimisers.items()
        }
        norms = {"grad_norm" if name == "main" else f"grad_norm/{name}": value for name, value in self._norms.items()}
        self.log({**self._where("train"), **logs, **rates, **norms, "seconds": round(seconds, 5)})

    def _where(self, split: str) -> dict[str, Any]:
        return {"stage": self.stage.name, "stage_number": self.number, "step": self.step, "split": split}

    def _validate(self) -> None:
        result = evaluate(
            self.method, self.data["val"], self.world, self.options.batch_size, self.options.seed, self.options.workers
        )
        self.method.train()
        self.log({**self._where("val"), **result.metrics})
        self.results = dict(result.metrics)
        name, direction = self.method.task.select
        if not (self.stage.select and self.options.select) or self.step < min(self.stage.select_from, self.steps):
            return
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
        for name, optimiser in self.optimisers.items():
            moments, numbers[name] = optimiser.state()
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
            "scaler": scaler.state_dict() if scaler is not None else None,
            "skipped": self._skipped,
        }
        return Snapshot({name: tensor.detach() for name, tensor in tensors.items()}, state)

    def restore(self, snapshot: Snapshot) -> None:
        own = unprefixed("method", snapshot.tensors)
        assign_tensors(self.method, own, self.method.own_tensors().keys())
        state = snapshot.state
        for name, optimiser in self.optimisers.items():
            optimiser.load_state(unprefixed(f"optimiser/{name}", snapshot.tensors), state["numbers"].get(name, {}))
        best = unprefixed("best", snapshot.tensors)
        self.best = {name: tensor.to(self.device) for name, tensor in best.items()} or None
        self.best_metric, self.since_best = state["best_metric"], int(state["since_best"])
        self.best_results = state["best_results"]
        self.results = dict(state["results"])
        self.step = int(state["step"])
        self._skipped = int(state["skipped"])
        if self.world.scaler is not None and state["scaler"] is not None:
            self.world.scaler.load_state_dict(state["scaler"])


def _accumulate(sums: dict[str, float], output: StepOutput, prefix: str) -> None:
    loss = float(output.loss.detach())
    for key, value in {"loss": loss, **{k: float(v) for k, v in output.logs.items()}}.items():
        sums[prefix + key] = sums.get(prefix + key, 0.0) + value * output.count
