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
    HOSTS = {"host": "vpt"}                     # of a strategy: role -> default id of the method that it tunes (`pt_core.strategy`)

A data role may say more than what it is: `{"what": "captions", "optional": True, "labels": "none", "split": False}`
(`pt_core.run.declare.registry.Need`).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pt_core.artifact import Artifact
from pt_core.backbone import Backbone, Claim, Features
from pt_core.data import Batch, Dataset
from pt_core.errors import ArtifactError, UserError
from pt_core.randomness import sampled_by, seeded
from pt_core.stage import (
    RunContext,
    Stage,
    StepOutput,
    matches,
)
from pt_core.task import Predictions, Task

View = Literal["predict", "train"]


class Method(nn.Module):
    """Base of all methods. A subclass sets `Config`, builds its modules in `__init__` and implements `forward`.

    Args:
        config: an instance of `Config`, a frozen dataclass whose defaults are the paper's.
        backbones: role -> backbone. They are not child modules.
        task: what is predicted.
        hosts: of a strategy, role -> the method that it tunes; they become child modules. Other methods take no such argument.
    """

    Config: ClassVar[type]
    PredictOptions: ClassVar[type | None] = None
    """A dataclass of the method's own flags of `predict` and `eval`; read as `self.predict_options`."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """The method's own defaults of the training options (optimizer, lr, epochs ...)."""
    coupled: bool = False
    """True where the loss or a layer couples the rows of a batch, or a claimed network draws for whole batches: results then depend on how
    a batch is cut."""
    training_only: ClassVar[tuple[str, ...]] = ()
    """Patterns of tensors that inference does not need; they are stored in the artifact's training view."""
    class_tensors: tuple[str, ...] | None = None
    """Patterns of tensors that depend on the classes: warm starts skip them where the classes differ, and while there are some the method
    cannot be retargeted. None, where nothing is declared, counts as all of them."""
    warm_roles: ClassVar[Mapping[str, str]] = {}
    """Roles of --init-from ROLE=RUN that `warm_start` knows besides its own kind of run: role -> what it takes."""
    leaves: ClassVar[str] = ""
    """Of a strategy: the host role whose artifact it leaves behind; empty where the artifact is its own."""
    sized_by_data: ClassVar[bool | None] = None
    """Whether tensors are sized by the training data, so that only `fit` can build the method; None: where it overrides `adopt`."""
    exports_forward: ClassVar[bool] = False
    """For a class with a `predict_step` of its own: whether `forward` is still the program to export (a step that averages votes)."""

    def __init__(
        self,
        config: Any,
        backbones: Mapping[str, Backbone],
        task: Task,
        hosts: Mapping[str, Method] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbones = dict(backbones)
        self.task = task
        self.predict_options: Any = None if self.PredictOptions is None else self.PredictOptions()
        self.adopted: Mapping[str, Dataset] | None = None
        """The prepared training data, once `adopt` was called."""
        if hosts is not None:
            self.hosts = nn.ModuleDict(hosts)
            self.coupled = self.coupled or any(host.coupled for host in hosts.values())

    @property
    def backbone(self) -> Backbone:
        """The backbone of the role `backbone`."""
        return self.backbones["backbone"]

    def __init_subclass__(cls, **settings: Any) -> None:
        """A `training_step` draws under the batch's keys whoever calls it: the loop, a custom step or a strategy."""
        super().__init_subclass__(**settings)
        own = cls.__dict__.get("training_step")
        if own is not None:

            @functools.wraps(own)
            def training_step(self: Method, batch: Batch) -> StepOutput:
                with sampled_by(batch.keys):
                    output: StepOutput = own(self, batch)
                return output

            cls.training_step = training_step  # type: ignore[method-assign]

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

    @property
    def method_id(self) -> str:
        """Its id in the registry, such as `vpt`: the literal at the head of its file."""
        return str(getattr(sys.modules.get(type(self).__module__), "ID", ""))

    @property
    def at_work(self) -> Method:
        """What a package looks at to prepare inputs and to draw panels: the method itself, or the host by which a strategy predicts."""
        return self

    def takers(self) -> list[Method]:
        """Those whose `PredictOptions` are flags of `predict`: the method, and a strategy's hosts."""
        return [self]

    def is_one_program(self) -> bool:
        """Whether `forward` is all of a prediction but for what the task does with its output, so that it can be exported."""
        return type(self).predict_step is Method.predict_step or self.exports_forward

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

    def predict_view(self, dataset: Dataset) -> Dataset:
        """What `predict_step` sees of a dataset, such as several views of every sample, keyed by its id; as many samples."""
        return dataset

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

    def own_precision(self, values: Tensor) -> Tensor:
        """Values in the precision of the tuned tensors: float32, unless the whole method was cast (a wrapped one, by `.half()`)."""
        return values.to(next(self.parameters()).dtype)

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

    def retarget(self, task: Task) -> Method:
        """The same tuned method on other class names: its tensors are shared, not copied.

        A shallow copy, whose parameter dicts and child modules are those of this method: what `functional_call` swaps here is seen there.

        Raises:
            UserError: tuned tensors belong to the classes it was tuned for.
        """
        if list(task.class_names()) != list(self.task.class_names()) and self.has_class_tensors():
            names = ", ".join(list(self.task.class_names())[:5])
            raise UserError(
                f"{type(self).__name__} has a fixed label space: what it tuned belongs to its classes ({names} ...), "
                "so it cannot predict others"
            )
        view = copy.copy(self)
        view.task = task
        return view

    def has_class_tensors(self) -> bool:
        """Whether a tuned tensor depends on the classes."""
        patterns = ("*",) if self.class_tensors is None else self.class_tensors
        return any(matches(name, patterns) for name in self.own_tensors())

    def warm_start(self, role: str, artifact: Artifact) -> None:
        """Start from what an earlier run tuned. The default takes runs of this method only and gives tensors that depend on the classes
        their fresh values where the classes differ.

        Args:
            role: empty for --init-from RUN, else the role that was named.
            artifact: the earlier run's, training view included.

        Raises:
            UserError: the method takes nothing in this role, or not from this method.
        """
        if role:
            known = ", ".join(self.warm_roles) or "none"
            raise UserError(f"--init-from {role}=...: this method has no such role; it has: {known}")
        warm_start(self, artifact)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """An earlier run's tensor for a place of another shape (a longer prompt, a higher rank); None where there is no rule for it."""
        return None

    def reset(self, *key: int | str) -> None:
        """Fresh initial values, drawn under `key`: those that a newly built method would have."""
        with seeded(*key):
            fresh = type(self)(self.config, self.backbones, self.task)
            if self.adopted is not None:
                fresh.adopt(self.adopted)
        assign_tensors(self, fresh.own_tensors(), fresh.own_tensors().keys())

    def folded(self) -> dict[str, dict[str, Tensor]]:
        """Backbone role -> weights (name -> values) that replace its own, for `--backbone run:RUN`: claims, and what else can be merged.

        Raises:
            UserError: it tuned no weight of a backbone.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for claim in (module for module in self.modules() if isinstance(module, Claim)):
            tensors = claim.tensors()
            own = [role for role, backbone in self.backbones.items() if id(backbone.module) == claim.owner]
            for role, backbone in self.backbones.items():
                names = {*dict(backbone.module.named_parameters()), *dict(backbone.module.named_buffers())}
                if role in own or (not own and tensors.keys() <= names):
                    found.setdefault(role, {}).update({name: tensor.detach() for name, tensor in tensors.items()})
                    break
        if not found:
            raise UserError(
                f"{type(self).__name__} tuned no weights of its backbone: name the backbone itself, and this run with --init-from"
            )
        return found

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


def warm_start(method: Method, artifact: Artifact) -> None:
    """Take an artifact's tensors into a method of the same kind; those of a strategy's hosts are the hosts' to take.

    Raises:
        UserError: the artifact is of another method, or was exported without what further tuning needs.
        ArtifactError: a tensor is missing, or of a shape that `Method.resized` has no rule for.
    """
    _, _, kind = artifact.method.partition("/")
    if kind != method.method_id:
        raise UserError(
            f"{artifact.folder} holds a {kind!r}, {method.method_id or type(method).__name__!r} cannot start from it"
        )
    everything = {**artifact.tensors, **(artifact.training or {})}
    wanted, given = (
        {name: tensor for name, tensor in some.items() if not name.startswith("hosts.")}
        for some in (method.own_tensors(), everything)
    )
    if method.export("train") and not artifact.training:
        raise UserError(f"{artifact.folder} was exported with --inference-only: it cannot be tuned further")
    before, now = artifact.card["task"], method.task.to_json()
    if any(key in before and before[key] != now.get(key) for key in method.task.label_keys):
        if method.class_tensors is None and wanted:
            raise UserError(
                f"{artifact.folder} was tuned for other classes, and {kind!r} does not say which of its tensors belong to them "
                "(`class_tensors`): start from a run on the same classes"
            )
        kept = {name for name in wanted if matches(name, method.class_tensors or ())}
        wanted = {name: tensor for name, tensor in wanted.items() if name not in kept}
        given = {name: tensor for name, tensor in given.items() if name not in kept}
    parameters = dict(method.named_parameters())
    for name, tensor in list(given.items()):
        if name in parameters and parameters[name].shape != tensor.shape:
            fitted = method.resized(name, tensor, parameters[name].shape)
            given[name] = tensor if fitted is None else fitted
    assign_tensors(method, given, wanted.keys())


def own_claims(method: Method) -> list[str]:
    """Names of the claims that a method made itself, those of its hosts left out."""
    return [
        name for name, module in method.named_modules() if isinstance(module, Claim) and not name.startswith("hosts.")
    ]
