"""Optimisers by name and learning rates as a pure function of the step, so that neither needs a scheduler's state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pt_core.errors import ArtifactError, ConfigError
from pt_core.method import Method
from pt_core.run.declare.options import TrainOptions, overlay
from pt_core.stage import Stage, matches


def _uncompiled(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The optimiser without torch's marks for its compiler: to set them torch imports that compiler at the first step, which
    takes longer than importing torch, and no step is compiled here."""
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "step", "zero_grad")}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(plain["step"])})


KINDS = {
    "adamw": _uncompiled(torch.optim.AdamW),
    "adam": _uncompiled(torch.optim.Adam),
    "sgd": _uncompiled(torch.optim.SGD),
    "adafactor": _uncompiled(torch.optim.Adafactor),
}


class NamedOptimiser:
    """A torch optimiser that knows its parameters by name, sets its own learning rate and stores its state as tensors."""

    def __init__(
        self, name: str, groups: list[dict[str, Any]], names: Mapping[int, str], options: TrainOptions
    ) -> None:
        self.name, self.options = name, options
        base = options.lr * (options.batch_size / 256 if options.lr_per_256 else 1)
        self.scales = [group.pop("lr_scale", 1.0) for group in groups]
        self.lr = base
        own: dict[str, dict[str, Any]] = {"sgd": {"momentum": options.momentum}, "adafactor": {}}
        extra = own.get(options.optimizer, {"eps": options.adam_eps})
        self.inner = KINDS[options.optimizer](groups, lr=base, weight_decay=options.weight_decay, **extra)  # type: ignore[call-arg]
        self.parameters: list[nn.Parameter] = [p for group in self.inner.param_groups for p in group["params"]]
        self.names = [names[id(parameter)] for parameter in self.parameters]

    def set_lr(self, factor: float) -> None:
        for group, scale in zip(self.inner.param_groups, self.scales, strict=True):
            group["lr"] = self.lr * scale * factor

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """(tensors, numbers) of the optimiser state, keyed by parameter name and entry."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, float] = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for entry, value in self.inner.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}|{entry}"] = value
                elif value is not None:
                    numbers[f"{name}|{entry}"] = value
        return tensors, numbers

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        state: dict[str, dict[str, Any]] = {}
        for key, value in [*tensors.items(), *numbers.items()]:
            name, _, entry = key.rpartition("|")
            if name not in self.names:
                raise ArtifactError(
                    f"the checkpoint has optimiser state for {name!r}, which optimiser {self.name!r} does not own"
                )
            state.setdefault(name, {})[entry] = value
        for name, parameter in zip(self.names, self.parameters, strict=True):
            entries = state.get(name)
            if entries is None:
                self.inner.state.pop(parameter, None)
                continue
            self.inner.state[parameter] = {
                # Adam's step counter stays on the CPU, moments follow their parameter.
                key: value.clone().to(parameter.device if value.ndim else value.device)
                if isinstance(value, Tensor)
                else value
                for key, value in entries.items()
            }


def build_optimisers(method: Method, stage: Stage, options: TrainOptions) -> dict[str, NamedOptimiser]:
    """The optimisers of a stage.

    Raises:
        ConfigError: one has no parameters, or two share one.
    """
    names = {id(tensor): name for name, tensor in method.named_parameters()}
    built: dict[str, NamedOptimiser] = {}
    if stage.optimisers is None:
        groups = method.param_groups(stage)
        if not any(group["params"] for group in groups):
            raise ConfigError(f"stage {stage.name!r} trains no parameter ({', '.join(stage.trains) or 'no pattern'})")
        built["main"] = NamedOptimiser("main", groups, names, options)
    else:
        for key, spec in stage.optimisers.items():
            chosen = [
                tensor
                for name, tensor in method.named_parameters()
                if matches(name, spec.params) and matches(name, stage.trains)
            ]
            if not chosen:
                raise ConfigError(
                    f"stage {stage.name!r}: optimiser {key!r} matches no trained parameter ({spec.params})"
                )
            built[key] = NamedOptimiser(key, [{"params": chosen}], names, overlay(options, spec.options))
    owners: dict[str, str] = {}
    shared = {key for key, spec in (stage.optimisers or {}).items() if spec.shared}
    for key, optimiser in built.items():
        for name in optimiser.names:
            if name in owners and not {key, owners[name]} <= shared:
                raise ConfigError(f"stage {stage.name!r}: {name!r} belongs to optimisers {owners[name]!r} and {key!r}")
            owners[name] = key
    return built


def lr_factor(step: int, steps: int, per_epoch: int, options: TrainOptions) -> float:
    """Multiplier of the learning rate at step `step` (0-based) of `steps`.

    Linear warm-up reaches 1 at the last warm-up step, then the schedule falls to 0 (or `decay`) behind the last step. With
    `official_warmup` the schedule moves once per epoch and starts at exactly 0. `warmup_lr` is constant during the warm-up. one-cycle warms
    up by itself.
    """
    if options.schedule == "one-cycle":
        return _one_cycle(step, steps)
    warmup = options.warmup_epochs
    if options.official_warmup:
        position, total = float(step // per_epoch), steps / per_epoch
        if position < warmup:
            return position / warmup if options.warmup_lr is None else options.warmup_lr / options.lr
        if (
            options.warmup_lr is not None
        ):  # CoOp's: the constant warm-up delays the schedule by its epochs, and does not shorten it
            total += warmup
    else:
        position, total, warmup = float(step), float(steps), round(warmup * per_epoch)
        if position < warmup:
            return (position + 1) / warmup if options.warmup_lr is None else options.warmup_lr / options.lr
    progress = min(1.0, (position - warmup) / max(1.0, total - warmup))
    match options.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return 1 - progress
        case "constant":
            return 1.0
        case "exponential":
            return float(options.decay**progress)


def _one_cycle(step: int, steps: int) -> float:
    """Smith's one cycle as torch.optim.lr_scheduler.OneCycleLR has it by default (cosines, peak at 30 %)."""
    peak, last = 0.3 * steps - 1, steps - 1
    if step <= peak:
        start, end, share = 1 / 25, 1.0, step / peak if peak > 0 else 1.0
    else:
        start, end, share = 1.0, 1 / 25 / 1e4, (step - peak) / max(last - peak, 1e-12)
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
