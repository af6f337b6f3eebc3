"""RELIEF: a policy decides which nodes of a graph get a feature prompt, and which prompt (KDD 2025, arXiv 2408.03195).

A graph with n nodes is prompted in n steps: choose a node (discrete actor), add a vector to its prompt (continuous actor). The reward of
a step is the drop of the downstream loss. An ensemble of E policies, each trained by PPO on its own share of the few shots and held to
the joint policy, alternates with a small head. Nothing is trained through the GNN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Le
from pt_core import Add, Backbone, Batch, Edits, Optimiser, Stage, Stream, Task
from pt_core.data import generator, take
from pt_core.errors import ConfigError, DataError
from pt_core.randomness import rekeyed, sampled_by
from pt_core.task import Predictions
from torch import Tensor, nn

from pt_graph.graphs.batch import Graphs
from pt_graph.method import FrozenMode, GraphMethod, constant
from pt_graph.networks.head import build_head
from pt_graph.relief.episodes import Episodes, Noise, joint_policy, play
from pt_graph.relief.epoch import improve_members
from pt_graph.relief.policy import FlatCritic, Policy, PooledCritic
from pt_graph.relief.shares import Averages, member_shares

ID = "relief"
TITLE = "RELIEF: Reinforcement Learning Empowered Graph Feature Prompt Tuning"
TUNES = "an ensemble of policies that prompt chosen nodes, and a head"
NEEDS = {"train": "labelled graphs"}

FLAT_LIMIT = 40_000
"""Largest N d for which the published critic is built by default."""
HEAD_BATCH = 128


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
    head_steps: Annotated[int, Ge(1)] = 1
    """Optimiser steps per pass and batch on the same prompts (published: 1); more train the head with fewer episodes."""
    warmup: Annotated[int, Ge(0)] = 0
    """Passes of the head over unprompted graphs before the first epoch (published: 100 and 50 for Photo, else 0)."""
    head_lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate of the head."""
    head_decay: bool = False
    """Let that learning rate fall linearly."""
    head_weight_decay: Annotated[float, Ge(0)] = 0.0
    """Weight decay of the head (published: 5e-4 for node tasks)."""
    frozen_mode: FrozenMode = "eval"
    """The GNN in the head's step: as in evaluation (eval), with its dropout on (dropout), or published: BatchNorm drifts too (train;
    results then depend on how a batch is cut)."""
    clamp_actions: bool = False
    """Clamp sampled contents to +-z_max (published for node tasks; molecules are not clamped)."""
    reward_clip: Annotated[float, Gt(0)] | None = None
    """Clip rewards to +- this (published: 0.1 for node tasks)."""
    mask_rewards: bool = True
    """Leave missing labels out of the reward; False is the published reward, where they count as target 0.5."""
    small_overlap: Literal["none", "whole"] = "none"
    """Share of other members' parts of fewer than 5 graphs: nothing, or (published) the whole part."""
    draws: Annotated[int, Ge(1)] = 1
    """Episodes per graph at evaluation, where nodes are sampled: logits are averaged; with several their spread is reported (draw_std)."""
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

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """The critic of graphs of another size is learned anew."""
        return self.own_tensors()[name].detach().clone() if name.startswith("critic.") else None

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
        """Logits, and per graph `pcr` (share of prompted nodes), `apm` (mean |p| over these) and, for several draws, `draw_std`."""
        graphs, keys = batch.inputs, [rng(sample) for sample in batch.ids]
        logits, coverage, size = [], [], []
        with torch.autocast(self.backbone.device.type, enabled=False):
            for _ in range(self.config.draws):
                found = self.prompt(graphs, keys)
                logits.append(self.head(graphs.mean(found.nodes)))
                touched = (found.prompts != 0).any(1, keepdim=True).to(found.prompts)
                count = graphs.sum(touched)[:, 0]
                coverage.append(count / graphs.sizes)
                size.append(graphs.sum(found.prompts.abs().mean(1, keepdim=True) * touched)[:, 0] / count.clamp(min=1))
        mean = {"pcr": torch.stack(coverage).mean(0), "apm": torch.stack(size).mean(0)}
        if self.config.draws > 1:
            mean["draw_std"] = torch.stack(logits).std(0).mean(1)
        return {**self.task.predict(torch.stack(logits).mean(0)), **mean}

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
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ConfigError("relief trains in one process: its policy updates follow each other")
        policy = {"lr": c.policy_lr, "clip_norm": 0.5, "adam_eps": 1e-5, "schedule": falling(c.policy_decay)}
        head = {"lr": c.head_lr, "weight_decay": c.head_weight_decay, "schedule": falling(c.head_decay)}
        optimisers = {
            f"member{e}": Optimiser((f"members.{e}.*", "critic.*"), policy, shared=True) for e in range(c.ensemble)
        }
        optimisers["head"] = Optimiser(("head.*",), head)
        streams = {"train": Stream("train", batch_size=size, shuffle=False)}
        if c.warmup:
            yield Stage(
                "warmup",
                trains=("head.*",),
                tracks=self.tracked(),
                streams=streams,
                options={"steps": c.warmup, "eval_every": c.warmup},
                optimisers={"head": Optimiser(("head.*",), {**head, "schedule": "constant"})},
                select=False,
                step=lambda step, batches: self.warm_up(step, batches["train"]),
            )
        order = torch.randperm(size, generator=generator(ctx.options.seed_of("data"), "members")).tolist()
        shares = member_shares(order, c.ensemble, c.small_overlap == "whole")
        steps = ctx.options.steps or math.ceil(ctx.options.epochs)
        yield Stage(
            "relief",
            tracks=self.tracked(),
            streams=streams,
            options={"steps": steps},
            optimisers=optimisers,
            select_from=c.select_from,
            step=lambda step, batches: self.epoch(step, batches["train"], shares),
        )

    def epoch(self, ctx: Any, batch: Batch, shares: list[list[int]]) -> dict[str, float]:
        """Rollouts and updates of every member on its share, then the head on all graphs."""
        with torch.autocast(self.backbone.device.type, enabled=False):
            logs = improve_members(ctx, self, batch, shares)
            for number in range(self.config.head_passes):
                self.fit_head(ctx, batch, f"head {number}", logs)
        return logs.means()

    def fit_head(self, ctx: Any, batch: Batch, key: str, logs: Averages, prompted: bool = True) -> None:
        """One pass of the head over all graphs, prompted by the joint policy exactly as at evaluation."""
        size = min(len(batch), HEAD_BATCH)
        order = torch.randperm(len(batch), generator=ctx.rng(key)).tolist()
        for rows in (order[start : start + size] for start in range(0, len(order), size)):
            graphs = self.backbone.embed(batch.inputs.select_rows(rows))
            self.eval()
            prompts = self.prompt(graphs, [ctx.rng(key, batch.ids[row]) for row in rows]).prompts if prompted else None
            self.train()
            edits: Edits = {} if prompts is None else {"input": Add(constant(prompts))}
            part = take(replace(batch, inputs=None), rows)
            for number in range(self.config.head_steps if prompted else 1):
                with torch.no_grad(), sampled_by(rekeyed(part, f"{key} {number}").keys):
                    pooled = graphs.mean(self.nodes(graphs, edits, noisy=True))
                loss, count = self.task.loss(self.head(pooled), part)
                ctx.backward(loss, count)
                ctx.update("head")
                logs.add({"loss": float(loss.detach())}, max(count, 1))

    def warm_up(self, ctx: Any, batch: Batch) -> dict[str, float]:
        logs = Averages()
        self.fit_head(ctx, batch, "warm-up", logs, prompted=False)
        return logs.means()


def falling(decay: bool) -> str:
    """Schedule of a learning rate; `linear` is the published (1 - (ep - 1) / Ep)."""
    return "linear" if decay else "constant"
