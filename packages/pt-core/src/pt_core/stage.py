"""Stages: continuous stretches of training or jobs, the streams they draw from, and what their steps and hooks get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pt_core.data import Batch, Dataset


@dataclass(frozen=True)
class StepOutput:
    """Loss of one micro-batch.

    Attributes:
        loss: scalar, the mean over `count` units. The trainer back-propagates loss * count and divides by the total count over
            micro-batches and processes, so that neither changes the result.
        count: samples or tokens, as the method says.
        logs: named scalars for metrics.jsonl, averaged with weight `count`.
    """

    loss: Tensor
    count: int
    logs: Mapping[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """An endless sequence of batches drawn from a data role.

    Attributes:
        role: key of `ctx.data`.
        batch_size: samples per step over all processes; None takes the run's `batch_size`.
        shuffle: a new permutation every epoch, from a generator keyed by (seed, stream, epoch).
        balanced: draw classes evenly (with repetition) instead of samples.
        augment: True gives the training view of the samples, False the evaluation view.
        rows: positions of the samples to draw from, such as those of one domain or class; None draws from all of them.
        view: what the stream sees instead of the role's dataset, such as other crops, or samples without their labels; as many samples.
        repeat: how often in a row every batch is drawn, each time with an augmentation of its own (a stream that is read once).
    """

    role: str
    batch_size: int | None = None
    shuffle: bool = True
    balanced: bool | None = None
    augment: bool = True
    rows: tuple[int, ...] | None = None
    view: Callable[[Dataset], Dataset] | None = None
    repeat: int = 1


@dataclass(frozen=True)
class Optimiser:
    """A named optimiser over the parameters whose names match `params`; `options` override the run's training options for it."""

    params: tuple[str, ...] = ("*",)
    options: Mapping[str, Any] = field(default_factory=dict)
    shared: bool = False
    """Whether its parameters may also belong to other shared optimisers, each of which then keeps its own moments of them."""


class StepContext(Protocol):
    """What hooks and custom steps get from the trainer."""

    step: int
    """Steps done in this stage."""
    steps: int
    """Steps this stage will take."""
    device: torch.device
    parts: Sequence[Mapping[str, Batch]]
    """This process's micro-batches of the step, each stream -> batch; a stream without a sample in one is absent."""

    @property
    def data(self) -> Mapping[str, Dataset]: ...

    def each_part(self, fn: Callable[[Mapping[str, Batch]], Any]) -> list[Any]:
        """fn(part) of every micro-batch that holds samples, one after the other, in the run's precision; fn may call `backward` itself,
        several times."""
        ...

    def gradients(
        self, loss: Callable[[Mapping[str, Batch]], tuple[Tensor, int]], optimiser: str = "main"
    ) -> dict[str, Tensor]:
        """Gradients of the mean of loss(part) -> (mean, count) over all micro-batches and processes, by parameter name, unscaled;
        nothing is stepped. Several of them may be combined (projected, gated) and given to `apply`."""
        ...

    def apply(self, gradients: Mapping[str, Tensor], optimiser: str = "main", clip: bool = True) -> float:
        """Clip and step with these gradients; returns their norm."""
        ...

    def backward(self, loss: Tensor, count: int, retain_graph: bool = False) -> None:
        """Accumulate the gradient of loss * count (scaled in fp16)."""
        ...

    def update(self, optimiser: str = "main", clip: bool = True) -> float:
        """Reduce gradients over processes, divide by the total count, clip, step, zero; returns the gradient norm."""
        ...

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        ...

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """The lists of all processes, one behind the other in the order of the draw."""
        ...

    def batch(self, role: str, rows: Sequence[int], *key: int | str) -> Batch | None:
        """This process's share of chosen samples (a replay memory's, say) in their training view, augmented by (step, key); None where it
        has none of them."""
        ...

    def rng(self, *key: int | str) -> torch.Generator:
        """A CPU generator keyed by (seed, stage, step, key)."""
        ...


class JobContext(Protocol):
    """What a job stage gets: data, a folder of its own that survives a kill, and passes over data with the current state."""

    dir: Path
    device: torch.device

    @property
    def data(self) -> Mapping[str, Dataset]: ...

    def batches(self, role: str, batch_size: int | None = None) -> Iterator[Batch]:
        """All samples of a role in order, evaluation view, on every process."""
        ...

    def rng(self, *key: int | str) -> torch.Generator: ...

    def log(self, values: Mapping[str, float]) -> None: ...


class RunContext(Protocol):
    """What `Method.stages` sees between its yields."""

    options: Any
    """The resolved training options."""

    @property
    def data(self) -> Mapping[str, Dataset]: ...

    @property
    def results(self) -> Mapping[str, Mapping[str, float]]:
        """Stage name -> its final metrics."""
        ...

    def rng(self, *key: int | str) -> torch.Generator: ...


Step = Callable[[StepContext, Mapping[str, Batch]], Mapping[str, float | Tensor]]


@dataclass(frozen=True)
class Stage:
    """One continuous stretch of training with one set of optimisers, or one job.

    Attributes:
        name: unique within the run; names the folder stages/<nn-name>.
        trains: patterns of the parameters that get gradient.
        tracks: patterns of the buffers that may change.
        streams: stream name -> stream.
        plan: step -> names of the streams drawn at that step, pure; None draws all of them every step.
        options: overrides of the run's training options (epochs, lr, batch_size, schedule ...) for this stage.
        optimisers: name -> optimiser; None is one optimiser named `main` over `Method.param_groups(stage)`.
        select: keep the weights that were best on validation (where there is validation data); False keeps the last.
        select_from: evaluations before this step do not count for selection (unless the stage is shorter).
        losses: how the default step treats the drawn streams: each one's batch goes through `training_step` and the losses add up.
        step: custom step over this process's whole part of the draw; it calls ctx.backward and ctx.update itself; no --accumulate then.
        step_parts: custom step that walks `ctx.parts`, or asks for `ctx.gradients`, and so takes --accumulate.
        run: job without optimiser.
        main_only: the job runs in the first process only; the others then take the tensors it left.
        acting: whose `training_step` and predictions this stage uses, where it is not the method that is trained: the host of
            `Strategy.host_stages`.
        evaluates: (validation data, step) -> what is evaluated at that step, such as the samples of the classes seen so far.
        after_backward: hook after gradients are synchronised and unscaled, before clipping.
        after_step: hook after every optimiser step (projection, EMA).
    """

    name: str
    trains: tuple[str, ...] = ("*",)
    tracks: tuple[str, ...] = ()
    streams: Mapping[str, Stream] = field(default_factory=lambda: {"train": Stream("train")})
    plan: Callable[[int], Sequence[str]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    optimisers: Mapping[str, Optimiser] | None = None
    select: bool = True
    select_from: int = 0
    step: Step | None = None
    step_parts: Callable[[StepContext], Mapping[str, float | Tensor]] | None = None
    run: Callable[[JobContext], None] | None = None
    main_only: bool = False
    acting: Any = None
    evaluates: Callable[[Dataset, int], Dataset] | None = None
    after_backward: Callable[[StepContext], None] | None = None
    after_step: Callable[[StepContext], None] | None = None

    def within(self, prefix: str) -> Stage:
        """The stage as a child module sees it: its patterns without the child's prefix; patterns of other modules match nothing there."""

        def inner(patterns: Sequence[str]) -> tuple[str, ...]:
            reach = [pattern.removeprefix(prefix) for pattern in patterns if pattern.startswith(prefix)]
            whole = ["*" for pattern in patterns if fnmatchcase(prefix, pattern)]  # `hosts.*` holds all of a host
            return (*reach, *whole, *(pattern for pattern in patterns if pattern.startswith("*")))

        return replace(self, trains=inner(self.trains), tracks=inner(self.tracks))

    def under(self, prefix: str) -> Stage:
        """A host's stage as its strategy's: patterns get the host's prefix (`hosts.ROLE.`)."""

        def outer(patterns: Sequence[str]) -> tuple[str, ...]:
            return tuple(prefix + pattern for pattern in patterns)

        named = None
        if self.optimisers is not None:
            named = {name: replace(one, params=outer(one.params)) for name, one in self.optimisers.items()}
        return replace(self, trains=outer(self.trains), tracks=outer(self.tracks), optimisers=named)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a tensor name matches one of the patterns (`*`, `?` as in file names)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
