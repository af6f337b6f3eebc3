"""The Method contract: a module that owns only its own tensors, and the stages in which they are tuned.

Every tensor of a method is *trained* (a parameter that gets gradient in some stage) or *tracked* (a buffer that changes without
gradient: EMA weights, BatchNorm statistics of its own modules, caches, pseudo-labels). The backbone's tensors are *frozen*.

A method file starts with literals that are read without importing it::

    ID = "vpt"                                  # registry name, equal to the file name
    TITLE = "Visual Prompt Tuning"              # the paper's full title
    TUNES = "p tokens per block and a linear head"
    NEEDS = {"train": "labelled images"}        # data role -> what it is
    BACKBONES = {"backbone": "fit, predict"}    # backbone role -> when it is needed (this is the default)
    EXTRA = None                                # extra of the package that it needs
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from pt_core.backbone import Backbone, Features
from pt_core.data import Batch, Dataset
from pt_core.errors import ArtifactError
from pt_core.randomness import sampled_by
from pt_core.task import Predictions, Task

View = Literal["predict", "train"]


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
    """

    role: str
    batch_size: int | None = None
    shuffle: bool = True
    balanced: bool | None = None
    augment: bool = True
    rows: tuple[int, ...] | None = None
    view: Callable[[Dataset], Dataset] | None = None


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
    after_backward: Callable[[StepContext], None] | None = None
    after_step: Callable[[StepContext], None] | None = None


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a tensor name matches one of the patterns (`*`, `?` as in file names)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Method(nn.Module):
    """Base of all methods. A subclass sets `Config`, builds its modules in `__init__` and implements `forward`.

    Args:
        config: an instance of `Config`, a frozen dataclass whose defaults are the paper's.
        backbones: role -> backbone. They are not child modules.
        task: what is predicted.
    """

    Config: ClassVar[type]
    recipe: ClassVar[Mapping[str, Any]] = {}
    """The method's own defaults of the training options (optimizer, lr, epochs ...)."""
    coupled: bool = False
    """True where the loss or a layer couples the rows of a batch; equality over process counts is then not promised."""
    training_only: ClassVar[tuple[str, ...]] = ()
    """Patterns of tensors that inference does not need; they are stored in the artifact's training view."""
    exports_forward: ClassVar[bool] = False
    """For a class with a `predict_step` of its own: whether `forward` is still the program to export (a step that averages votes)."""

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__()
        self.config = config
        self.backbones = dict(backbones)
        self.task = task

    @property
    def backbone(self) -> Backbone:
        """The backbone of the role `backbone`."""
        return self.backbones["backbone"]

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """`forward`; what it draws belongs to the batch's samples where the batch has keys (`pt_core.randomness`)."""
        if getattr(batch, "keys", None) is None:
            return super().__call__(batch, *args, **kwargs)
        with sampled_by(batch.keys):
            return super().__call__(batch, *args, **kwargs)

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """Pure in (own tensors, batch): teachers and inner loops call it through `torch.func.functional_call`."""
        raise TypeError(f"{type(self).__name__} must define forward(batch)")

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        """Size tensors by the prepared training data and check that its samples fit; called once, before training and before a resumed
        run is restored. A method that overrides it also overrides `restore`, which then sizes them by the artifact."""

    def training_step(self, batch: Batch) -> StepOutput:
        output = self(batch)
        loss, count = self.task.loss(output, batch)
        return StepOutput(loss, count, self.task.logs(output, batch))

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        """Predictions for a batch. `rng(sample_id)` is a generator keyed by (seed, sample id). Runs under no_grad; a method that
        adapts at test time enables gradients itself and restores its tensors before it returns."""
        return self.task.predict(self(batch))

    def stages(self, ctx: RunContext) -> Iterator[Stage]:
        """The stages, yielded lazily: code between yields sees the state that the last stage left, and must be quick and free of
        side effects other than on tracked tensors, because a resumed run replays it."""
        yield Stage("train")

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        """Optimiser groups: dicts with `params` and overrides of `lr` (as `lr_scale`) and `weight_decay`."""
        chosen = [tensor for name, tensor in self.named_parameters() if matches(name, stage.trains)]
        return [{"params": chosen}]

    def frozen_key(self) -> str | None:
        """Name of a per-sample tensor that no tuned tensor influences, computed by `frozen_part`; None where there is none.

        Where the data are not augmented the run computes it once per sample, keeps it in the feature cache, and hands it to `forward` as
        `batch.extra["frozen"]` (then `batch.inputs` is None).
        """
        return None

    def frozen_part(self, batch: Batch) -> Tensor:
        """(batch, ...): the quantity named by `frozen_key`."""
        raise TypeError(f"{type(self).__name__} names a frozen part but does not compute it")

    def cached_batch(self, batch: Batch) -> Batch:
        """The batch as a step over the feature cache gets it; `budget` counts with it."""
        extra = {**batch.extra, "frozen": self.frozen_part(batch).float()}
        return dataclasses.replace(batch, inputs=None, extra=extra)

    def untouched(self, batch: Batch) -> Features | None:
        """The frozen network's own pass over a batch, which `budget` compares with; None where there is none."""
        backbone = self.backbones.get("backbone", next(iter(self.backbones.values()), None))
        return None if backbone is None or batch.inputs is None else backbone(batch.inputs)

    @classmethod
    def mixed(cls, methods: Sequence[Method]) -> Callable[[Batch, Tensor], Sequence[Predictions]] | None:
        """A function (batch, tenant index per row) -> one prediction per row (each with a leading axis of 1) that runs rows of several
        tuned methods in one forward, or None where rows have to be grouped by tenant."""
        return None

    def panels(self) -> Sequence[Mapping[str, Any]]:
        """Panels for the run's report, as mappings with `title`, `kind`, `data` and `note` (see `pt_core.run.report.Panel`)."""
        return ()

    def own_tensors(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers by name."""
        return dict(self.state_dict(keep_vars=True))

    def export(self, view: View) -> dict[str, Tensor]:
        """Tensors of the artifact. `predict`: what inference needs; `train`: what further tuning needs besides."""
        only = self.training_only
        wanted = view == "train"
        return {n: t.detach() for n, t in self.own_tensors().items() if matches(n, only) == wanted}

    def restore(self, view: View, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `export`.

        Raises:
            ArtifactError: a tensor is missing, unknown, or of another shape; prints both shapes.
        """
        assign_tensors(self, tensors, expected=self.export(view).keys())

    def parameter_count(self) -> int:
        """Number of tuned values; subclasses give the formula in their docstring and a test checks it."""
        return sum(tensor.numel() for tensor in self.parameters())


def assign_tensors(module: nn.Module, tensors: Mapping[str, Tensor], expected: Any) -> None:
    """Copy tensors into a module's parameters and buffers. Parameters must agree in shape; a buffer may change its size."""
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise ArtifactError(f"tensors do not fit: missing {missing or 'none'}, unknown {unknown or 'none'}")
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for name, value in tensors.items():
        if name in parameters and parameters[name].shape != value.shape:
            raise ArtifactError(
                f"tensor {name!r} has shape {tuple(value.shape)}, this method needs {tuple(parameters[name].shape)}"
            )
    with torch.no_grad():
        for name, value in tensors.items():
            if name in parameters:
                parameters[name].copy_(value)
                continue
            buffer = buffers[name]
            if buffer.shape == value.shape:
                buffer.copy_(value)
            else:
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, value.to(buffer.device, buffer.dtype).clone())
