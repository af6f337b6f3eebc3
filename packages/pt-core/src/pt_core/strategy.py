"""The Strategy contract: a method that tunes another method, its host.

Pseudo-labels, meta-learning, multitask tuning and prompt pre-training work over whatever is tuned. A strategy file names its hosts at its
head (`HOSTS = {"host": "vpt"}`); the runner builds the host that `--host` chooses and hands it over. A strategy imports no method and asks
for nothing that is special to one: it uses `forward`, `training_step`, `predict_step`, `param_groups`, `adopt`, `export`, `restore`,
`retarget`, `reset`, `frozen_key` / `frozen_part`, and `task.logits(output)`; `host_stages` runs what its host does by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from pt_core.artifact import Artifact
from pt_core.backbone import Backbone, Features
from pt_core.data import Batch, Dataset
from pt_core.errors import UserError
from pt_core.method import Method, View, assign_tensors, own_claims
from pt_core.randomness import seeded
from pt_core.stage import RunContext, Stage, StepOutput, matches
from pt_core.task import Predictions, Task


class Strategy(Method):
    """A method over hosts. Everything that is not overridden is the host's: tensors are called `hosts.ROLE.NAME`.

    What a strategy that leaves itself stores of a host is the host's own `export`, under that prefix; `training_only = ("hosts.ROLE.*",)`
    names a host that predictions do not need. A strategy with a `forward` of its own predicts and is trained by it.

    `leaves = "host"` makes the host's own artifact what the run leaves behind: it loads, serves, mixes and exports as any other of that
    method, with the strategy recorded under `made_by`.
    """

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task, hosts: Mapping[str, Method]) -> None:
        super().__init__(config, backbones, task, hosts)
        self._driven: dict[str, tuple[str, Stage]] = {}
        """Name of a stage of `host_stages` -> role and stage of the host."""

    def __init_subclass__(cls, **settings: Any) -> None:
        """Stages of a strategy's own are checked as they come: none may leave out what a host does by itself."""
        super().__init_subclass__(**settings)
        own = cls.__dict__.get("stages")
        if own is not None:

            @functools.wraps(own)
            def stages(self: Strategy, ctx: RunContext) -> Iterator[Stage]:
                for stage in own(self, ctx):
                    self._check_hosts(stage, ctx)
                    yield stage

            cls.stages = stages  # type: ignore[method-assign]

    def by_role(self) -> dict[str, Method]:
        """Role -> host."""
        return {role: cast(Method, host) for role, host in self.hosts.items()}

    def host_of(self, role: str) -> Method:
        return self.by_role()[role]

    @property
    def host(self) -> Method:
        """The host of the role `host`, or the only one."""
        return self.host_of("host" if "host" in self.hosts else next(iter(self.hosts)))

    @property
    def at_work(self) -> Method:
        return self.host.at_work

    def takers(self) -> list[Method]:
        return [self, *self.by_role().values()]

    def forward(self, batch: Batch) -> Any:
        return self.host(batch)

    def training_step(self, batch: Batch) -> StepOutput:
        return super().training_step(batch) if self._has_own("forward") else self.host.training_step(batch)

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        return super().predict_step(batch, rng) if self._has_own("forward") else self.host.predict_step(batch, rng)

    def predict_view(self, dataset: Dataset) -> Dataset:
        return self.host.predict_view(dataset)

    def is_one_program(self) -> bool:
        if self._has_own("predict_step"):
            return self.exports_forward
        return self._has_own("forward") or self.host.is_one_program()

    def panels(self) -> Sequence[Mapping[str, Any]]:
        """The hosts' panels; of several hosts each says whose it is."""
        said = {role: "" if len(self.hosts) == 1 else f" ({role})" for role in self.hosts}
        return [
            {**panel, "title": f"{panel['title']}{said[role]}"}
            for role, host in self.by_role().items()
            for panel in host.panels()
        ]

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        for host in self.by_role().values():
            host.adopted = data
            host.adopt(data)

    # ---- stages ------------------------------------------------------------------------------------------------------------

    def stages(self, ctx: RunContext) -> Iterator[Stage]:
        """The only host's, as it has them; with a loss of its own one plain stage over everything.

        Raises:
            UserError: there are several hosts, so that the strategy has to say what happens; or it has a loss of its own, and the host
                does more than one plain stage.
        """
        if len(self.hosts) != 1:
            raise UserError(f"{type(self).__name__} tunes several methods and must define its stages")
        (role,) = self.hosts
        if self._has_own("forward") or self._has_own("training_step"):
            stage = Stage("train")
            self._check_hosts(stage, ctx)
            yield stage
        else:
            yield from self.host_stages(ctx, role)

    def host_stages(self, ctx: RunContext, role: str = "host", named: str = "{}") -> Iterator[Stage]:
        """What a host does by itself, as stages of this strategy: its jobs, its steps, its own loss, selected by its own predictions.

        A stage may be changed before it is yielded on (`dataclasses.replace(stage, options=...)`), but for its name; a strategy that
        needs a host's jobs and trains it by a step of its own yields those with a `run` only.

        Args:
            named: how the stages are called here, such as `round-1-{}`; names are unique within a run.
        """
        host, prefix = self.host_of(role), f"hosts.{role}."

        def seen(fn: Callable[..., Any] | None) -> Any:
            return None if fn is None else lambda step, *drawn: fn(_AsHost(step, prefix, named), *drawn)

        for stage in host.stages(cast(RunContext, _AsHost(ctx, prefix, named))):
            name = named.format(stage.name)
            self._driven[name] = role, stage
            yield replace(
                stage.under(prefix),
                name=name,
                acting=host,
                step=seen(stage.step),
                step_parts=seen(stage.step_parts),
                run=seen(stage.run),
                after_backward=seen(stage.after_backward),
                after_step=seen(stage.after_step),
            )

    def _check_hosts(self, stage: Stage, ctx: RunContext) -> None:
        """A stage of the strategy's own stands for what its hosts do: they may have no more than one plain stage, unless `host_stages`
        ran them before.

        Raises:
            UserError: names what would be left out.
        """
        if stage.run is not None or (stage.acting is not None and stage.name in self._driven):
            return
        seen = {role for role, _ in self._driven.values()}
        for role, host in self.by_role().items():
            if role in seen or not any(matches(f"hosts.{role}.{name}", stage.trains) for name in host.own_tensors()):
                continue
            more = _more_than_plain(host, ctx)
            if more:
                raise UserError(
                    f"{self.method_id!r} tunes {host.method_id!r} by steps of its own, which would leave out what that does besides "
                    f"(stages: {', '.join(more)}); choose another --{role}, or options of it with one plain stage"
                )

    def _has_own(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(Strategy, name)

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        """The hosts' groups, and one of what the strategy itself trains. A host sees the stage's patterns without its prefix, and its own
        stages as it made them."""
        if stage.acting is not None and stage.name in self._driven:
            role, own_stage = self._driven[stage.name]
            return self.host_of(role).param_groups(own_stage)
        groups: list[dict[str, Any]] = []
        for role, host in self.by_role().items():
            groups += host.param_groups(stage.within(f"hosts.{role}."))
        taken = {id(parameter) for group in groups for parameter in group["params"]}
        own = [parameter for group in super().param_groups(stage) for parameter in group["params"]]
        rest = [parameter for parameter in own if id(parameter) not in taken]
        return [*(group for group in groups if group["params"]), *([{"params": rest}] if rest else [])]

    def frozen_key(self) -> str | None:
        return self.host.frozen_key() if len(self.hosts) == 1 else None

    def frozen_part(self, batch: Batch) -> Tensor:
        return self.host.frozen_part(batch)

    def cached_batch(self, batch: Batch) -> Batch:
        return self.host.cached_batch(batch)

    def untouched(self, batch: Batch) -> Features | None:
        return self.host.untouched(batch)

    # ---- tensors -----------------------------------------------------------------------------------------------------------

    def export(self, view: View) -> dict[str, Tensor]:
        found = {name: tensor for name, tensor in super().export(view).items() if not name.startswith("hosts.")}
        for role, host in self.by_role().items():
            views: tuple[View, ...] = (view,)
            if self._only_trains(role):
                views = ("predict", "train") if view == "train" else ()
            for one in views:
                found |= {f"hosts.{role}.{name}": tensor for name, tensor in host.export(one).items()}
        return found

    def restore(self, view: View, tensors: Mapping[str, Tensor]) -> None:
        given: dict[str, dict[str, Tensor]] = {role: {} for role in self.hosts}
        own: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            place, _, rest = name.removeprefix("hosts.").partition(".")
            hosted = name.startswith("hosts.") and place in given
            (given[place] if hosted else own)[rest if hosted else name] = tensor
        assign_tensors(self, own, [name for name in super().export(view) if not name.startswith("hosts.")])
        for role, host in self.by_role().items():
            if not self._only_trains(role):
                host.restore(view, given[role])
            elif view == "train":
                later = host.export("train").keys()
                host.restore("predict", {name: t for name, t in given[role].items() if name not in later})
                host.restore("train", {name: t for name, t in given[role].items() if name in later})

    def _only_trains(self, role: str) -> bool:
        return matches(f"hosts.{role}.", self.training_only)

    def folded(self) -> dict[str, dict[str, Tensor]]:
        """What the strategy claimed itself, and over it what its hosts fold in."""
        found: dict[str, dict[str, Tensor]] = {}
        for host in self.by_role().values():
            try:
                merged = host.folded()
            except UserError:
                continue
            for backbone, weights in merged.items():
                found.setdefault(backbone, {}).update(weights)
        if not found or own_claims(self):
            for backbone, weights in super().folded().items():
                found[backbone] = {**weights, **found.get(backbone, {})}
        return found

    def has_class_tensors(self) -> bool:
        own = [name for name in self.own_tensors() if not name.startswith("hosts.")]
        patterns = self.class_tensors if self.class_tensors is not None else ("*",)
        return any(matches(name, patterns) for name in own) or any(
            host.has_class_tensors() for host in self.by_role().values()
        )

    def retarget(self, task: Task) -> Method:
        """As a method's, with hosts retargeted too; the hosts' tensors stay shared."""
        view = super().retarget(task)
        modules = dict(view._modules)
        hosts = torch.nn.ModuleDict({role: host.retarget(task) for role, host in self.by_role().items()})
        modules["hosts"] = hosts
        object.__setattr__(view, "_modules", modules)
        return view

    def reset(self, *key: int | str) -> None:
        for role, host in self.by_role().items():
            host.reset(*key, role)
        with seeded(*key):
            fresh = type(self)(self.config, self.backbones, self.task, self.by_role())
        own = {name: tensor for name, tensor in fresh.own_tensors().items() if not name.startswith("hosts.")}
        assign_tensors(self, own, own.keys())

    def warm_start(self, role: str, artifact: Artifact) -> None:
        """ROLE=RUN of a host role is the host's own warm start; a run without a role is one of this strategy, whose hosts start from its
        hosts, or of its only host."""
        if role in self.hosts:
            self.host_of(role).warm_start("", artifact)
        elif not role and len(self.hosts) == 1 and artifact.method.partition("/")[2] == self.host.method_id:
            self.host.warm_start("", artifact)
        else:
            super().warm_start(role, artifact)
            earlier = {name: str(entry["method"]) for name, entry in artifact.card["hosts"].items()}
            for name, host in self.by_role().items():
                if earlier.get(name) != host.method_id:
                    raise UserError(
                        f"{artifact.folder} has the {name} {earlier.get(name)!r}, {host.method_id!r} cannot start from it"
                    )
                host.warm_start("", _of_host(artifact, name))

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        for role, host in self.by_role().items():
            if name.startswith(f"hosts.{role}."):
                return host.resized(name.removeprefix(f"hosts.{role}."), tensor, shape)
        return None

    def left_behind(self) -> Method:
        """What the run's artifact is of: the strategy itself, or the host that `leaves` names.

        Raises:
            UserError: `leaves` names a host, but the strategy tuned weights of the backbone that the host's artifact cannot hold.
        """
        if not self.leaves:
            return self
        claims = own_claims(self)
        if claims:
            raise UserError(
                f"{type(self).__name__} leaves its host's artifact, which cannot hold the backbone weights that the strategy tunes "
                f"({', '.join(claims)})"
            )
        host = self.host_of(self.leaves)
        if any(backbone._bound is not None for backbone in host.backbones.values()):
            raise UserError(
                f"{type(self).__name__} leaves its host's artifact, which cannot hold the weights that the strategy put under it"
            )
        return host


def _of_host(artifact: Artifact, role: str) -> Artifact:
    """The part of a strategy's artifact that is one host's, as if the host had left it."""
    entry, prefix = artifact.card["hosts"][role], f"hosts.{role}."
    method = f"{artifact.method.partition('/')[0]}/{entry['method']}"
    card = {**artifact.card, "method": method, "config": entry["config"], "hosts": {}}

    def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    later = own(artifact.training or {})
    return replace(artifact, card=card, tensors=own(artifact.tensors) or later, training=later)


class _AsHost:
    """A context as a host sees it: parameters and stages by its own names."""

    def __init__(self, inner: Any, prefix: str, named: str) -> None:
        self._inner, self._prefix, self._named = inner, prefix, named

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def results(self) -> dict[str, Mapping[str, float]]:
        before, _, after = self._named.partition("{}")
        return {
            name[len(before) : len(name) - len(after)]: found
            for name, found in self._inner.results.items()
            if name.startswith(before) and name.endswith(after)
        }

    def rng(self, *key: int | str) -> torch.Generator:
        found: torch.Generator = self._inner.rng(*key) if self._named == "{}" else self._inner.rng(self._named, *key)
        return found

    def gradients(self, loss: Any, optimiser: str = "main") -> dict[str, Tensor]:
        found: Mapping[str, Tensor] = self._inner.gradients(loss, optimiser)
        return {name.removeprefix(self._prefix): gradient for name, gradient in found.items()}

    def apply(self, gradients: Mapping[str, Tensor], optimiser: str = "main", clip: bool = True) -> float:
        outer = {self._prefix + name: gradient for name, gradient in gradients.items()}
        norm: float = self._inner.apply(outer, optimiser, clip)
        return norm


def _more_than_plain(host: Method, ctx: RunContext) -> list[str]:
    """Names of a host's stages where they are more than one that its loss and an optimiser make up; how long, how fast and by what it is
    selected is the strategy's to say. What the host does between its stages is undone."""
    if type(host).stages is Method.stages:
        return []
    kept = {name: tensor.detach().clone() for name, tensor in host.own_tensors().items()}
    stages = host.stages(ctx)
    found = list(islice(stages, 1))
    try:
        found += islice(stages, 1)
    except (KeyError, IndexError, AttributeError, TypeError, RuntimeError):
        found *= 2  # it goes on from what its first stage would have left
    assign_tensors(host, kept, kept.keys())
    taken: dict[str, Any] = {"name": "", "tracks": (), "options": {}, "select": True, "select_from": 0}
    plain = len(found) < 2 and all(replace(stage, **taken) == Stage("") for stage in found)
    return [] if plain else list(dict.fromkeys(stage.name for stage in found))
