"""A method on one's own network, as a plain `nn.Module` for loops that are not pt's: a bare one, HF Trainer, Lightning Fabric."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from pt_core.backbone import Backbone
from pt_core.data import Batch
from pt_core.errors import ConfigError, UserError
from pt_core.method import Method
from pt_core.randomness import seeded
from pt_core.run.data.nothing import ClassesOnly
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.use.load import build_method
from pt_core.saving import card_of, save_artifact
from pt_core.task import Task

_USERS: WeakKeyDictionary[nn.Module, WeakSet[Wrapped]] = WeakKeyDictionary()
"""Network -> the wrapped methods that use it."""


class Wrapped(nn.Module):
    """A tuned (or still to be tuned) method with its frozen network.

    `parameters()` and `state_dict()` are what is tuned; the frozen network moves along (`.to`, `.cuda`, `.half`) but is neither trained nor
    stored, stays in eval mode under `.train()`, and is shared by deep copies and by other methods that were wrapped around it. They move to
    another device together; what would change the network's values (`.half`, `.double`, `.to_empty`) is refused while others use it.

    Args:
        modality: turns what the network takes into batches.
        method: the method.
        notes: recorded in the artifact.
    """

    accepts_loss_kwargs = False
    """Tells HF Trainer that the loss is a mean over the batch it gave, so that it averages over its accumulation steps itself."""

    def __init__(self, modality: Modality, method: Method, notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.method = method
        self.modality, self.notes = modality, list(notes)
        for backbone in self._backbones():
            _USERS.setdefault(backbone.module, WeakSet()).add(self)

    def forward(self, *inputs: Any, labels: Tensor | None = None, **named: Any) -> Any:
        """Logits for what the network takes; with `labels` (batch,) a mapping of `loss` (a scalar) and `logits`, as HF Trainer asks for.

        Returns:
            (batch, class) logits, or {"loss", "logits"}.
        """
        batch = self.modality.plain_batch(self.method.at_work, inputs, named)
        if labels is None:
            return self.method(batch)
        full = Batch(batch.inputs, labels, batch.index, batch.ids, batch.extra)
        if type(self.method).training_step is not Method.training_step:  # a loss of the method's own
            return {"loss": self.method.training_step(full).loss, "logits": self.method(batch)}
        output = self.method(full)
        return {"loss": self.method.task.loss(output, full)[0], "logits": output}

    def save(self, folder: str | Path, metrics: Mapping[str, float] | None = None) -> None:
        """Write the artifact that the package's `load` reads; with a network of one's own, `load(folder, backbone=network)`.

        Raises:
            ArtifactError: a tensor is not finite, or the folder cannot be written.
        """
        extra = {
            "versions": {self.modality.package: self.modality.version()},
            "metrics": dict(metrics or {}),
            "notes": self.notes,
        }
        info = self.modality.registry.info(self.method.method_id)
        card = card_of(self.method, f"{self.modality.package}/{self.method.method_id}", extra, info.backbones)
        save_artifact(Path(folder), self.method, card)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Wrapped:
        self._check_shared(fn)
        super()._apply(fn, recurse)
        for backbone in self._backbones():
            backbone.module._apply(fn)
        return self

    def _check_shared(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Refuse what would change the values of a network that another wrapped method uses; nothing has changed then.

        Raises:
            UserError: says what to do instead.
        """
        for backbone in self._backbones():
            if self._alone(backbone) or not any(_changes(fn, tensor) for tensor in backbone.frozen_tensors()):
                continue
            gc.collect()  # others may be gone but for a circle of references
            if not self._alone(backbone):
                raise UserError(
                    "the frozen network is shared with a deep copy, or with another method on the same network, whose values this would "
                    "change: cast before copying, or wrap copy.deepcopy(network)"
                )

    def _alone(self, backbone: Backbone) -> bool:
        return all(user is self for user in _USERS.get(backbone.module, ()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Wrapped:
        for backbone in self._backbones():
            memo[id(backbone)] = backbone
        return type(self)(self.modality, copy.deepcopy(self.method, memo), self.notes)

    def _backbones(self) -> list[Backbone]:
        return list({id(backbone): backbone for backbone in self.method.backbones.values()}.values())


def _changes(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> bool:
    """Whether `fn` changes the values of tensors of this kind, or their type; a move to another device does not."""
    probe = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    result = fn(probe)
    return result is not probe and (result.dtype != probe.dtype or result.device == probe.device)


def wrap(
    modality: Modality,
    network: nn.Module | Backbone | str,
    method: str,
    classes: int | Sequence[str] | Task,
    seed: int = 0,
    **options: Any,
) -> Wrapped:
    """Put a method on a network.

    Args:
        network: a module of a kind that the package has an adapter for, a loaded backbone, or a spec such as `timm:vit_tiny_patch16_224`.
        method: id, such as `vpt`.
        classes: how many, or their names; or a task of the package.
        seed: of the initial values.
        options: the method's own, such as `prompt_length=10`.

    Raises:
        ConfigError: unknown or invalid options.
        UserError: the method needs more than one labelled role or one plain stage, so that only `fit` can train it.
    """
    registry = modality.registry
    info, cls = registry.info(method), registry.load(method)
    config = build_all({"config": cls.Config}, options)["config"]
    if len(info.backbones) != 1 or info.hosts:
        needs = ", ".join([*info.hosts, *(role for role in info.backbones if len(info.backbones) > 1)])
        raise UserError(f"{info.id!r} is built from several networks or methods ({needs}); train it with `fit`")
    roles = [role for role, need in info.roles.items() if role != "train" and not need.optional]
    if roles:
        raise UserError(f"{info.id!r} needs the data roles {', '.join(roles)} besides 'train'; train it with `fit`")
    (role,) = info.backbones
    if isinstance(network, str):
        backbone = modality.load_backbone(network, None, None, role)
    else:
        backbone = network if isinstance(network, Backbone) else modality.backbone_of(network)
    with seeded(seed, "init"):
        built = build_method(registry, info.id, config, {}, {role: backbone}, _task(modality, classes))
    _check_plain(built, info.id)
    return Wrapped(modality, built)


def _task(modality: Modality, classes: int | Sequence[str] | Task) -> Task:
    if isinstance(classes, Task):
        return classes
    names = [str(name) for name in range(classes)] if isinstance(classes, int) else list(classes)
    return modality.make_task(modality.task_options(), {"train": ClassesOnly(names)})


def _check_plain(method: Method, name: str) -> None:
    """Refuse what a loop over `loss.backward()` and an optimiser would silently leave out."""
    overridden = type(method).adopt is not Method.adopt
    if overridden if method.sized_by_data is None else method.sized_by_data:
        raise UserError(f"{name!r} is sized by its training data; train it with `fit`")
    nothing = SimpleNamespace(options=TrainOptions(), data={}, results={}, rng=lambda *key: torch.Generator())
    try:
        stages = list(method.stages(nothing))  # type: ignore[arg-type]
    except (KeyError, AttributeError, IndexError, ConfigError):
        raise UserError(f"{name!r} plans its stages by its training data; train it with `fit`") from None
    plain = [s for s in stages if not (s.run or s.step or s.step_parts or s.after_step or s.after_backward)]
    if len(stages) != 1 or not plain or set(stages[0].streams) != {"train"}:
        kinds = ", ".join(stage.name for stage in stages)
        raise UserError(f"{name!r} has stages, jobs or steps of its own ({kinds}); train it with `fit`")
