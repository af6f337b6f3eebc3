"""The Strategy contract: a method that tunes another method, its host.

Pseudo-labels, meta-learning, multitask tuning and prompt pre-training work over whatever is tuned. A strategy file names its hosts at its
head (`HOSTS = {"host": "vpt"}`); the runner builds the host that `--host` chooses and hands it over. A strategy imports no method and asks
for nothing that is special to one: it uses `forward`, `training_step`, `predict_step`, `param_groups`, `adopt`, `export`, `restore`,
`retarget`, `reset`, `frozen_key` / `frozen_part`, and `task.logits(output)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from pt_core.artifact import Artifact
from pt_core.backbone import Backbone
from pt_core.data import Batch, Dataset
from pt_core.errors import UserError
from pt_core.method import Method, assign_tensors, own_claims
from pt_core.randomness import seeded
from pt_core.stage import RunContext, Stage, StepOutput, matches
from pt_core.task import Predictions, Task


class Strategy(Method):
    """A method over hosts. With one host everything that is not overridden is the host's: tensors are called `hosts.ROLE.NAME`.

    `leaves = "host"` makes the host's own artifact what the run leaves behind: it loads, serves, mixes and exports as any other of that
    method, with the strategy recorded under `made_by`.
    """

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task, hosts: Mapping[str, Method]) -> None:
        super().__init__(config, backbones, task, hosts)

    def by_role(self) -> dict[str, Method]:
        """Role -> host."""
        return {role: cast(Method, host) for role, host in self.hosts.items()}

    def host_of(self, role: str) -> Method:
        return self.by_role()[role]

    @property
    def host(self) -> Method:
        """The host of the role `host`, or the only one."""
        return self.host_of("host" if "host" in self.hosts else next(iter(self.hosts)))

    def forward(self, batch: Batch) -> Any:
        return self.host(batch)

    def training_step(self, batch: Batch) -> StepOutput:
        return self.host.training_step(batch)

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        return self.host.predict_step(batch, rng)

    def predict_view(self, dataset: Dataset) -> Dataset:
        return self.host.predict_view(dataset)

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        for host in self.by_role().values():
            host.adopted = data
            host.adopt(data)

    def stages(self, ctx: RunContext) -> Iterator[Stage]:
        """The only host's, as it has them.

        Raises:
            UserError: there are several hosts, or the host steps by itself, so that the strategy has to say what happens.
        """
        if len(self.hosts) != 1:
            raise UserError(f"{type(self).__name__} tunes several methods and must define its stages")
        (role,) = self.hosts
        for stage in self.host.stages(ctx):
            if stage.step is not None or stage.step_parts is not None:
                raise UserError(
                    f"{self.host.method_id!r} steps by itself (stage {stage.name!r}), so it cannot be a host here"
                )
            yield stage.under(f"hosts.{role}.")

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        """The hosts' groups, and one of what the strategy itself trains. A host sees the stage's patterns without its prefix."""
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
        """ROLE=RUN of a host role is the host's own warm start; a run without a role is one of this strategy, or of its only host."""
        if role in self.hosts:
            self.host_of(role).warm_start("", artifact)
        elif not role and len(self.hosts) == 1 and artifact.method.partition("/")[2] == self.host.method_id:
            self.host.warm_start("", artifact)
        else:
            super().warm_start(role, artifact)

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
