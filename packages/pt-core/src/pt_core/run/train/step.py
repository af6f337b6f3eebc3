"""One optimiser step of a stage: backward passes, gradients over micro-batches and processes, clipping, the step itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pt_core.data import Batch, Dataset, generator, stable_seed
from pt_core.errors import NonFiniteError
from pt_core.method import Method
from pt_core.randomness import keyed, occurrences, reseed
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.optim import NamedOptimiser, build_optimisers
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.world import World
from pt_core.sealed import write_text
from pt_core.stage import Stage

MAX_SKIPPED = 20
"""fp16 steps skipped in a row before the run gives up."""
Loss = Callable[[Mapping[str, Batch]], tuple[Tensor, int]]


class Steps:
    """The `StepContext` that hooks and custom steps see.

    Attributes:
        step, steps: done and to do in this stage.
        parts: this process's micro-batches of the current step, each a mapping stream -> batch; a stream without a sample in one is absent.
    """

    def __init__(
        self,
        method: Method,
        stage: Stage,
        data: Mapping[str, Dataset],
        options: TrainOptions,
        world: World,
        run: RunDir,
        steps: int,
    ) -> None:
        self.method, self.stage, self.data, self.options = method, stage, data, options
        self.world, self.run, self.device = world, run, world.device
        self.step, self.steps = 0, steps
        self.optimisers: dict[str, NamedOptimiser] = build_optimisers(method, stage, options)
        self.parts: Sequence[Mapping[str, Batch]] = ()
        self.norms: dict[str, float] = {}
        self.skipped = 0
        self.ids: list[str] = []
        """Samples of the pass that runs, for messages."""
        self.began = False
        """Whether a backward pass has run."""
        self._pending = 0.0
        self._bad: list[str] = []
        self._bad_loss = float("nan")

    def rng(self, *key: int | str) -> torch.Generator:
        return generator(self.options.seed, "step", self.stage.name, self.step, *key)

    def reduce(self, values: Tensor) -> Tensor:
        return self.world.sum_(values.detach().clone())

    def gather(self, values: Sequence[Any]) -> list[Any]:
        return self.world.gather(values)

    def batch(self, role: str, rows: Sequence[int], *key: int | str) -> Batch | None:
        dataset = self.data[role]
        cut = [np.asarray(values, dtype=np.int64) for values in (rows, occurrences([int(row) for row in rows]))]
        mine, times = (
            array.tolist() for array in (np.array_split(part, self.world.size)[self.world.rank] for part in cut)
        )
        if not mine:
            return None
        seed = stable_seed(self.options.seed_of("data"), self.stage.name, self.step, *key)
        samples = [dataset.sample(row, epoch=0, seed=seed) for row in mine]
        drawn = dataset.collate(mine, samples).to(self.device)
        return keyed(drawn, self.options.seed, "sample", self.stage.name, self.step, role, *key, occurrence=times)

    def reseed(self, part: int) -> None:
        """What a sample draws is keyed by the sample; the global generators serve networks that draw for a whole micro-batch."""
        reseed(self.options.seed, "micro", self.stage.name, self.step, self.world.rank * self.options.accumulate + part)

    def each_part(self, fn: Callable[[Mapping[str, Batch]], Any]) -> list[Any]:
        """fn(part) of the micro-batches with samples; each has its ids in messages and its own state of the global generators."""
        results = []
        for number, part in enumerate(self.parts):
            if part:
                self.ids = [sample for batch in part.values() for sample in batch.ids]
                self.reseed(number)
                with self.world.autocast():
                    results.append(fn(part))
        return results

    def backward(self, loss: Tensor, count: int, retain_graph: bool = False) -> None:
        """Accumulate the gradient of loss * count. A non-finite loss is remembered; `update` stops all processes together."""
        self.began = True
        if not bool(torch.isfinite(loss.detach())):
            self._bad, self._bad_loss = list(self.ids), float(loss.detach())
            return
        total = loss.float() * count
        scaler = self.world.scaler
        (scaler.scale(total) if scaler is not None else total).backward(retain_graph=retain_graph)
        self._pending += count

    def gradients(self, loss: Loss, optimiser: str = "main") -> dict[str, Tensor]:
        """Gradients of the mean of `loss` over all micro-batches and processes, by parameter name; nothing is stepped.

        Args:
            loss: micro-batch -> (mean over its units, number of units).

        Raises:
            RuntimeError: gradients of an earlier `backward` wait for their `update`.
        """
        chosen = self.optimisers[optimiser]
        if self._pending:
            raise RuntimeError("gradients() would drop what backward() accumulated; call update() first")
        for number, part in enumerate(self.parts):
            if part:
                self.ids = [sample for batch in part.values() for sample in batch.ids]
                self.reseed(number)
                with self.world.autocast():
                    value, count = loss(part)
                self.backward(value, count)
        self._reduce(chosen)
        scale = 1.0 if self.world.scaler is None else 1 / self.world.scaler.get_scale()
        named = zip(chosen.names, chosen.parameters, strict=True)
        found = {name: parameter.grad * scale for name, parameter in named if parameter.grad is not None}
        self.method.zero_grad(set_to_none=True)  # of all optimisers: a pass leaves gradient on others' parameters too
        self._pending = 0.0
        return found

    def apply(self, gradients: Mapping[str, Tensor], optimiser: str = "main", clip: bool = True) -> float:
        """Step with these gradients (unscaled, equal on all processes), as `update` does with those of `backward`."""
        chosen = self.optimisers[optimiser]
        scale = 1.0 if self.world.scaler is None else self.world.scaler.get_scale()
        for name, parameter in zip(chosen.names, chosen.parameters, strict=True):
            parameter.grad = gradients[name] * scale if name in gradients else None
        return self._finish(optimiser, 1.0, clip)

    def update(self, optimiser: str = "main", clip: bool = True) -> float:
        """Average gradients over everything since the last update, clip, step and zero. Returns the gradient norm."""
        return self._finish(optimiser, self._reduce(self.optimisers[optimiser]), clip)

    def _finish(self, optimiser: str, count: float, clip: bool) -> float:
        chosen, scaler = self.optimisers[optimiser], self.world.scaler
        if scaler is not None:
            scaler.unscale_(chosen.inner)
        if self.stage.after_backward is not None:
            self.stage.after_backward(self)
        gradients = [p.grad for p in chosen.parameters if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))) if gradients else 0.0
        if not math.isfinite(norm) and scaler is None:
            self._fail("gradient norm", norm, self.world.gather(self.ids))
        if clip and self.options.clip_norm is not None and norm > self.options.clip_norm:
            for gradient in gradients:
                gradient.mul_(self.options.clip_norm / (norm + 1e-6))
        if count > 0:
            self._step(chosen, scaler)
        chosen.inner.zero_grad(set_to_none=True)
        self.norms[optimiser] = norm
        self._pending = 0.0
        if self.stage.after_step is not None:
            self.stage.after_step(self)
        return norm

    def _step(self, chosen: NamedOptimiser, scaler: torch.amp.GradScaler | None) -> None:
        if scaler is None:
            chosen.inner.step()
            return
        before = scaler.get_scale()
        scaler.step(chosen.inner)
        scaler.update()
        self.skipped = self.skipped + 1 if scaler.get_scale() < before else 0
        if self.skipped >= MAX_SKIPPED:
            raise NonFiniteError(
                f"fp16 gradients overflowed {MAX_SKIPPED} times in a row at step {self.step}; use --precision bf16 or fp32"
            )

    def _reduce(self, chosen: NamedOptimiser) -> float:
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
