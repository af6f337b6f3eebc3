"""RELIEF: a policy decides which nodes of a graph get a feature prompt, and which; the pretrained GNN is frozen (KDD 2025, arXiv 2408.03195).

A graph with n nodes is prompted in n steps: choose a node (discrete actor), add a vector to its prompt (continuous actor). The reward of
a step is the drop of the downstream loss. An ensemble of E policies, each trained by PPO on its own share of the few shots and held to
the joint policy, alternates with a small head. Nothing is trained through the GNN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Le
from pt_core import Add, Backbone, Batch, Edits, Optimiser, Stage, Stream, Task
from pt_core.data import generator
from pt_core.errors import ConfigError, DataError
from pt_core.task import Predictions
from torch import Tensor, nn

from pt_graph.graphs import Graphs
from pt_graph.heads import build_head
from pt_graph.method import FrozenMode, GraphMethod
from pt_graph.relief.episodes import Episodes, Noise, joint_policy, member_policy, play
from pt_graph.relief.policy import FlatCritic, Policy, PooledCritic
from pt_graph.relief.update import RunningScale, Weights, advantages, objective, transitions
from pt_graph.tasks import GraphTask

ID = "relief"
TITLE = "RELIEF: Reinforcement Learning Empowered Graph Feature Prompt Tuning"
TUNES = "an ensemble of policies that prompt chosen nodes, and a head"
NEEDS = {"train": "labelled graphs"}

FLAT_LIMIT = 40_000
"""Largest N d for which the published critic is built by default."""


@dataclass(frozen=True)
class RELIEFConfig:
    z_max: Annotated[float, Ge(0)] = 1.0
    """Bound of a step's mean prompt (published: 0.05, 0.1, 0.5, 1 per data set); sums over steps may exceed it."""
    ensemble: Annotated[int, Ge(1)] = 3
    """E, policies; 1 is no ensemble and no penalty."""
    alpha_d: Annotated[float, Ge(0)] = 1e5
    """Weight of KL(joint || member) over nodes (published: 1, 10, 1e5)."""
    alpha_c: Annotated[float, Ge(0)] = 0.1
    """Weight of KL(member || joint) over contents."""
    gamma: Annotated[float, Ge(0), Le(1)] = 0.99
    """Discount of later rewards."""
    gae_lambda: Annotated[float, Ge(0), Le(1)] = 0.95
    """Lambda of generalised advantage estimation."""
    clip_d: Annotated[float, Gt(0)] = 0.2
    """Clip range of the node ratio."""
    clip_c: Annotated[float, Gt(0)] = 0.2
    """Clip range of the content ratio."""
    kl_stop_d: Annotated[float, Gt(0)] = 1e-3
    """Passes stop when the node policy moved further than this."""
    kl_stop_c: Annotated[float, Gt(0)] = 0.1
    """Passes stop when the content policy moved further than this."""
    passes: Annotated[int, Ge(1)] = 10
    """Most passes over the transitions of a rollout batch."""
    minibatch: Annotated[int, Ge(1)] = 128
    """Transitions per policy update (published: 64 or 128); a rollout batch with no more than this gives no update."""
    rollout_graphs: Annotated[int, Ge(1)] = 8
    """Graphs per rollout batch."""
    entropy: Annotated[float, Ge(0)] = 0.01
    """Entropy bonus of the node policy at the first epoch; falls linearly to 0."""
    log_std_start: float = 0.0
    """Log standard deviation of contents at the first epoch ..."""
    log_std_end: float = -5.0
    """... and behind the last; linear between."""
    critic: Literal["auto", "flat", "pooled"] = "auto"
    """`flat` is the published critic of the padded state, `pooled` one of the mean node; auto: flat while N d <= 40,000."""
    state_nodes: Annotated[int, Ge(1)] | None = None
    """N of the flat critic (default: the largest graph of the data)."""
    policy_lr: Annotated[float, Gt(0)] = 5e-4
    """Learning rate of actors and critic."""
    policy_decay: bool = False
    """Let that learning rate fall linearly."""
    head_layers: Annotated[int, Ge(1)] = 1
    """Layers of the head (published: 1 to 3)."""
    head_passes: Annotated[int, Ge(1)] = 1
    """Passes of the head over the training graphs per epoch (published: 1 to 5)."""
    head_lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate of the head."""
    head_decay: bool = False
    """Let that learning rate fall linearly."""
    head_weight_decay: Annotated[float, Ge(0)] = 0.0
    """Weight decay of the head (published: 5e-4 for node tasks)."""
    frozen_mode: FrozenMode = "dropout"
    """The GNN in the head's step: dropout on and BatchNorm kept (dropout), as in evaluation (eval), or published: BatchNorm drifts (train)."""
    clamp_actions: bool = False
    """Clamp sampled contents to +-z_max (published for node tasks; molecules are not clamped)."""
    reward_clip: Annotated[float, Gt(0)] | None = None
    """Clip rewards to +- this (published: 0.1 for node tasks)."""
    mask_rewards: bool = True
    """Leave missing labels out of the reward; False is the published reward, where they count as target 0.5."""
    small_overlap: Literal["none", "whole"] = "none"
    """Share of other members' parts of fewer than 5 graphs: nothing, or (published) the whole part."""
    select_from: Annotated[int, Ge(0)] = 20
    """Epochs before this one are not selected (where there are as many)."""

    def __post_init__(self) -> None:
        if self.log_std_end > self.log_std_start:
            raise ValueError("log_std_end exceeds log_std_start: the contents' spread has to fall")


class RELIEF(GraphMethod):
    """logits = head( mean_v GNN(G, P)_v ), P from n steps of the joint policy.

    Parameters at d = D: E [(d^2/2 + d/2) + (d^2/8 + d/4) + (d/4 + 1) + (d^2/2 + d/2) + (d^2/4 + d/2) + (d D/2 + D)] + critic +
    (layers - 1)(d^2 + d) + d C + C; per member 56,551 + 113,100 at d = D = 300. The critic is not needed for prediction.

    One optimiser step of the run is one epoch. The critic is stepped by the E optimisers of the members in turn, each with its own
    moments, as published.
    """

    Config = RELIEFConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "epochs": 50,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "constant",
        "batch_size": 64,
    }
    training_only = ("critic.*",)
    coupled = True  # rollouts standardise rewards and advantages over their batch
    config: RELIEFConfig

    def __init__(self, config: RELIEFConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        dim, prompt_dim = self.backbone.dim, self.backbone.prompt_dim
        self.members = nn.ModuleList(Policy(dim, prompt_dim, config.z_max) for _ in range(config.ensemble))
        most = config.state_nodes or getattr(task, "largest", None)
        flat = config.critic == "flat" or (config.critic == "auto" and most is not None and most * dim <= FLAT_LIMIT)
        if flat and most is None:
            raise ConfigError("critic='flat' needs state_nodes, the number of nodes of the largest graph")
        self.critic: FlatCritic | PooledCritic = FlatCritic(dim, most) if flat and most else PooledCritic(dim)
        self.head = build_head(dim, task.outputs, config.head_layers)

    @property
    def policies(self) -> list[Policy]:
        return [cast(Policy, member) for member in self.members]

    # ---- prediction --------------------------------------------------------------------------------------------------------

    def prompt(self, graphs: Graphs, rng: list[torch.Generator]) -> Episodes:
        """Episodes of the joint policy: node sampled with each graph's own generator, content without noise."""
        noise = Noise.draw(graphs.sizes.tolist(), rng, None)
        policies = self.policies
        return play(
            self.frozen,
            self.backbone.embed(graphs),
            self.backbone.prompt_dim,
            lambda n: joint_policy(policies, n),
            noise,
        )

    def frozen(self, graphs: Graphs, edits: Edits) -> Tensor:
        return self.nodes(graphs, edits, noisy=False)

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        """Logits, and per graph `pcr` (share of prompted nodes) and `apm` (mean |p| over these)."""
        with torch.autocast(self.backbone.device.type, enabled=False):
            found = self.prompt(batch.inputs, [rng(sample) for sample in batch.ids])
            logits = self.head(batch.inputs.mean(found.nodes))
        touched = (found.prompts != 0).any(1).to(found.prompts.dtype)
        coverage = batch.inputs.sum(touched[:, None])[:, 0] / batch.inputs.sizes
        size = batch.inputs.sum((found.prompts.abs().mean(1) * touched)[:, None])[:, 0]
        size = size / batch.inputs.sum(touched[:, None])[:, 0].clamp(min=1)
        return {**self.task.predict(logits), "pcr": coverage, "apm": size}

    def forward(self, batch: Batch) -> Tensor:
        """(graph, output) logits; node choices are keyed by the sample ids alone."""
        with torch.autocast(self.backbone.device.type, enabled=False):
            found = self.prompt(batch.inputs, [generator("forward", sample) for sample in batch.ids])
            return self.head(batch.inputs.mean(found.nodes))

    def node_prompts(self, graphs: Graphs, batch: Batch) -> Tensor:
        return self.prompt(graphs, [generator("forward", sample) for sample in batch.ids]).prompts

    # ---- training ----------------------------------------------------------------------------------------------------------

    def stages(self, ctx: Any) -> Iterator[Stage]:
        c = self.config
        size = len(ctx.data["train"])
        if size < c.ensemble:
            raise DataError(f"{size} training graphs cannot be shared by {c.ensemble} policies; lower --ensemble")
        if (
            torch.distributed.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size() > 1
        ):
            raise ConfigError("relief trains in one process: its policy updates follow each other")
        common = {
            "lr": c.policy_lr,
            "clip_norm": 0.5,
            "adam_eps": 1e-5,
            "schedule": "linear" if c.policy_decay else "constant",
        }
        optimisers = {
            f"member{e}": Optimiser((f"members.{e}.*", "critic.*"), common, shared=True) for e in range(c.ensemble)
        }
        head = {
            "lr": c.head_lr,
            "weight_decay": c.head_weight_decay,
            "schedule": "linear" if c.head_decay else "constant",
        }
        optimisers["head"] = Optimiser(("head.*",), head)
        order = torch.randperm(size, generator=generator(ctx.options.seed_of("data"), "members")).tolist()
        shares = member_shares(order, c.ensemble, c.small_overlap == "whole")
        steps = ctx.options.steps or math.ceil(ctx.options.epochs)
        yield Stage(
            "relief",
            tracks=self.tracked(),
            streams={"train": Stream("train", batch_size=size, shuffle=False)},
            options={"steps": steps},
            optimisers=optimisers,
            select_from=c.select_from,
            step=lambda step, batches: self.epoch(step, batches["train"], shares),
        )

    def epoch(self, ctx: Any, batch: Batch, shares: list[list[int]]) -> dict[str, float]:
        """Rollouts and updates of every member on its share, then the head on all graphs."""
        progress = ctx.step / ctx.steps
        with torch.autocast(self.backbone.device.type, enabled=False):
            scale, logs = RunningScale(), Averages()
            labelled = self.graph_task.labelled(batch.target).tolist()
            if not all(labelled):
                warnings.warn(f"{labelled.count(False)} training graphs have no label and give no reward", stacklevel=2)
            embedded = list(self.backbone.embed(batch.inputs).split())
            for member, share in enumerate(shares):
                rows = [share[i] for i in torch.randperm(len(share), generator=ctx.rng("share", member))]
                rows = [row for row in rows if labelled[row]]
                for number in range(0, len(rows), self.config.rollout_graphs):
                    self.improve(
                        ctx,
                        member,
                        rows[number : number + self.config.rollout_graphs],
                        batch,
                        embedded,
                        scale,
                        progress,
                        logs,
                    )
            if not logs.sums.get("policy_updates"):
                warnings.warn(
                    f"no policy was updated: every rollout batch has at most minibatch={self.config.minibatch} transitions; lower "
                    "--minibatch or raise --rollout-graphs",
                    stacklevel=2,
                )
            self.fit_head(ctx, batch, logs)
        return logs.means()

    def improve(
        self,
        ctx: Any,
        member: int,
        rows: list[int],
        batch: Batch,
        embedded: list[Graphs],
        scale: RunningScale,
        progress: float,
        logs: Averages,
    ) -> None:
        """One rollout batch of a member and its policy updates."""
        from pt_graph.graphs import collate

        c, policies = self.config, self.policies
        graphs, target = collate([embedded[row] for row in rows]), batch.target[rows]
        std = math.exp(c.log_std_start + (c.log_std_end - c.log_std_start) * progress)
        keys = [ctx.rng("episode", member, batch.ids[row]) for row in rows]
        noise = Noise.draw(graphs.sizes.tolist(), keys, self.backbone.prompt_dim)
        clamp = c.z_max if c.clamp_actions else None
        task = self.graph_task

        def loss(pooled: Tensor, at: Tensor) -> Tensor:
            return task.sample_losses(self.head(pooled), target[at], c.mask_rewards)

        self.eval()
        played = play(
            self.frozen,
            graphs,
            self.backbone.prompt_dim,
            lambda n: member_policy(policies[member], std, clamp, n),
            noise,
            loss,
            record=True,
        )
        self.train()
        steps = transitions(played, graphs.sizes, c.reward_clip)
        returns = played.losses[:, 0] - played.losses.gather(1, graphs.sizes[:, None])[:, 0]  # type: ignore[index]
        logs.add({"return": float(returns.mean())}, len(rows))
        if isinstance(self.critic, FlatCritic) and int(graphs.sizes.max()) > self.critic.most:
            raise DataError(f"a graph has {int(graphs.sizes.max())} nodes, more than state_nodes={self.critic.most}")
        reward = torch.tensor(scale.normalise(steps.reward.tolist()), device=steps.reward.device)
        with torch.no_grad():
            everything = torch.arange(len(steps), device=reward.device)
            value = torch.cat([self.critic(steps.nodes(part)[0], steps.sizes[part]) for part in everything.split(256)])
        advantage, target_value = advantages(reward.to(value), value, steps.ends, c.gamma, c.gae_lambda)
        if len(steps) <= c.minibatch:
            return
        weights = Weights(c.clip_d, c.clip_c, c.entropy * (1 - progress), c.alpha_d, c.alpha_c, std)
        rng = ctx.rng("passes", member, rows[0])
        for _ in range(c.passes):
            order = torch.randperm(len(steps), generator=rng).to(reward.device)
            moved: list[tuple[float, float]] = []
            for chosen in order[: len(order) // c.minibatch * c.minibatch].split(c.minibatch):
                found = objective(policies, member, steps, chosen, advantage, weights)
                predicted = self.critic(steps.nodes(chosen)[0], steps.sizes[chosen])
                fit = ((predicted - target_value[chosen]) ** 2).mean()
                ctx.backward(found.loss + 0.5 * fit, len(chosen))
                ctx.update(f"member{member}")
                moved.append((found.kl_node, found.kl_content))
                logs.add({**found.logs, "critic_loss": float(fit)}, len(chosen))
                logs.count("policy_updates")
            if any(
                sum(column) / len(moved) > stop
                for column, stop in zip(zip(*moved, strict=True), (c.kl_stop_d, c.kl_stop_c), strict=True)
            ):
                break

    def fit_head(self, ctx: Any, batch: Batch, logs: Averages) -> None:
        """Passes of the head over all graphs, prompted by the joint policy exactly as at evaluation."""
        size = min(len(batch), 128)
        for number in range(self.config.head_passes):
            order = torch.randperm(len(batch), generator=ctx.rng("head", number)).tolist()
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                graphs = self.backbone.embed(batch.inputs.select_rows(rows))
                self.eval()
                prompts = self.prompt(graphs, [ctx.rng("head", number, batch.ids[row]) for row in rows]).prompts
                self.train()
                with torch.no_grad():
                    nodes = self.nodes(graphs, {"input": Add(lambda x, _, prompts=prompts: prompts)}, noisy=True)
                part = Batch(None, batch.target[rows], batch.index[rows], [batch.ids[row] for row in rows])
                loss, count = self.task.loss(self.head(graphs.mean(nodes)), part)
                ctx.backward(loss, count)
                ctx.update("head")
                logs.add({"loss": float(loss.detach())}, max(count, 1))

    @property
    def graph_task(self) -> GraphTask:
        return cast(GraphTask, self.task)


def member_shares(order: list[int], members: int, whole: bool) -> list[list[int]]:
    """Rows of every member: its consecutive part of `order` (the last takes the rest) and the last fifth of every other part.

    A part of fewer than 5 has a fifth of 0 rows; `whole` then takes all of it, as the published slice does.
    """
    size = len(order) // members
    parts = [order[e * size : (e + 1) * size if e < members - 1 else len(order)] for e in range(members)]

    def tail(part: list[int]) -> list[int]:
        fifth = int(0.2 * len(part))
        return part[-fifth:] if fifth else (list(part) if whole else [])

    return [
        [*part, *(row for other in range(members) if other != e for row in tail(parts[other]))]
        for e, part in enumerate(parts)
    ]


class Averages:
    """Weighted means of what an epoch logs."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float], weight: int) -> None:
        for name, value in values.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += value * weight
            total[1] += weight

    def count(self, name: str) -> None:
        self.sums.setdefault(name, [0.0, 1.0])[0] += 1

    def means(self) -> dict[str, float]:
        return {name: total / weight for name, (total, weight) in self.sums.items()}
