"""The policy half of an epoch: every member plays its share of the graphs alone, and is updated after each rollout batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from pt_core import Batch, Edits, Task
from pt_core.data import generator
from pt_core.errors import DataError
from torch import Tensor, nn

from pt_graph.graphs.batch import Graphs, collate
from pt_graph.networks.backbone import GraphBackbone
from pt_graph.relief.episodes import Choose, Episodes, Noise, joint_policy, member_policy, play, random_policy
from pt_graph.relief.policy import FlatCritic, Policy, PooledCritic
from pt_graph.relief.shares import Averages
from pt_graph.relief.update import RunningScale, Transitions, Weights, advantages, objective, transitions
from pt_graph.tasks.contract import GraphTask

VALUES_AT_ONCE = 256
"""States per forward of the critic when it only judges."""


class Ensemble(Protocol):
    """What an epoch needs of the method: policies, critic and head over a frozen network."""

    config: Any
    """The method's own; see `RELIEFConfig`."""
    task: Task
    critic: FlatCritic | PooledCritic
    head: nn.Sequential

    @property
    def policies(self) -> list[Policy]: ...

    @property
    def backbone(self) -> GraphBackbone: ...

    def frozen(self, graphs: Graphs, edits: Edits) -> Tensor:
        """(node, d): the network as in evaluation."""
        ...

    def train(self) -> Any: ...

    def eval(self) -> Any: ...


def improve_members(ctx: Any, method: Ensemble, batch: Batch, shares: Sequence[Sequence[int]]) -> Averages:
    """Rollouts and updates of all members; one running reward scale for all of them.

    Args:
        ctx: the step's context; `ctx.step / ctx.steps` is (ep - 1) / Ep.
        batch: all training graphs.
        shares: rows of every member.
    """
    config, scale, logs = method.config, RunningScale(), Averages()
    labelled = cast(GraphTask, method.task).labelled(batch.target).tolist()
    if not all(labelled):
        warnings.warn(f"{labelled.count(False)} training graphs have no label and give no reward", stacklevel=2)
    critic = method.critic
    if isinstance(critic, FlatCritic) and int(batch.inputs.sizes.max()) > critic.most:
        raise DataError(f"a graph has {int(batch.inputs.sizes.max())} nodes, more than state_nodes={critic.most}")
    graphs = list(method.backbone.embed(batch.inputs).split())
    for member, share in enumerate(shares):
        order = [share[i] for i in torch.randperm(len(share), generator=ctx.rng("share", member))]
        rows = [row for row in order if labelled[row]]
        for start in range(0, len(rows), config.rollout_graphs):
            chosen = rows[start : start + config.rollout_graphs]
            played, sizes = rollout(ctx, method, member, chosen, batch, graphs)
            steps = transitions(played, sizes, config.reward_clip)
            logs.add({"return": mean_return(played, sizes)}, len(chosen))
            reward = torch.tensor(scale.normalise(steps.reward.tolist()), device=sizes.device)
            update(ctx, method, member, steps, reward.float(), f"{member} {start}", logs)
    if "policy_updates" not in logs.sums:
        warnings.warn(
            f"no policy was updated: every rollout batch has at most minibatch={config.minibatch} transitions; lower --minibatch "
            "or raise --rollout-graphs",
            stacklevel=2,
        )
    return logs


def spread(ctx: Any, method: Ensemble) -> float:
    """Standard deviation of contents in this epoch: exp of a line from log_std_start to log_std_end."""
    config = method.config
    return math.exp(config.log_std_start + (config.log_std_end - config.log_std_start) * ctx.step / ctx.steps)


def rollout(
    ctx: Any, method: Ensemble, member: int, rows: Sequence[int], batch: Batch, graphs: Sequence[Graphs]
) -> tuple[Episodes, Tensor]:
    """(episodes of one member, sizes (graph,)); noise is keyed by sample."""
    config, policy, task = method.config, method.policies[member], cast(GraphTask, method.task)
    chosen, target = collate([graphs[row] for row in rows]), batch.target[list(rows)]
    keys = [ctx.rng("episode", member, batch.ids[row]) for row in rows]
    noise = Noise.draw(chosen.sizes.tolist(), keys, method.backbone.prompt_dim)
    std, clamp = spread(ctx, method), config.z_max if config.clamp_actions else None

    def loss(pooled: Tensor, at: Tensor) -> Tensor:
        return task.sample_losses(method.head(pooled), target[at], config.mask_rewards)

    method.eval()
    played = play(
        method.frozen,
        chosen,
        method.backbone.prompt_dim,
        lambda ordered: member_policy(policy, std, clamp, ordered),
        noise,
        loss,
        record=True,
    )
    method.train()
    return played, chosen.sizes


def episode_returns(method: Ensemble, batch: Batch, seed: int, policy: str = "joint") -> Tensor:
    """(graph,) l_0 - l_n of one episode each: under the joint policy as at evaluation, or (`random`) with a uniform node and a content
    uniform in +-z_max at every step. What a trained policy is compared with."""
    task, z_max, dim = cast(GraphTask, method.task), method.config.z_max, method.backbone.prompt_dim
    graphs = method.backbone.embed(batch.inputs)
    keys = [generator(seed, "returns", policy, sample) for sample in batch.ids]
    noise = Noise.draw(graphs.sizes.tolist(), keys, dim if policy == "random" else None)

    def choose(ordered: Noise) -> Choose:
        return random_policy(z_max, ordered) if policy == "random" else joint_policy(method.policies, ordered)

    def loss(pooled: Tensor, at: Tensor) -> Tensor:
        return task.sample_losses(method.head(pooled), batch.target[at])

    method.eval()
    played = play(method.frozen, graphs, dim, choose, noise, loss)
    assert played.losses is not None
    return played.losses[:, 0] - played.losses.gather(1, graphs.sizes[:, None])[:, 0]


def mean_return(played: Episodes, sizes: Tensor) -> float:
    """Mean over graphs of l_0 - l_n, which the rewards add up to."""
    assert played.losses is not None
    return float((played.losses[:, 0] - played.losses.gather(1, sizes[:, None])[:, 0]).mean())


def update(
    ctx: Any, method: Ensemble, member: int, steps: Transitions, reward: Tensor, key: str, logs: Averages
) -> None:
    """Up to `passes` passes of minibatches over the transitions; ends when the policy moved too far."""
    config, critic = method.config, method.critic
    with torch.no_grad():
        everything = torch.arange(len(steps), device=reward.device)
        parts = everything.split(VALUES_AT_ONCE)
        value = torch.cat([critic(steps.nodes(part)[0], steps.sizes[part]) for part in parts])
    advantage, returns = advantages(reward, value, steps.ends, config.gamma, config.gae_lambda)
    if len(steps) <= config.minibatch:
        return
    entropy = config.entropy * (1 - ctx.step / ctx.steps)
    weights = Weights(config.clip_d, config.clip_c, entropy, config.alpha_d, config.alpha_c, spread(ctx, method))
    rng = ctx.rng("passes", key)
    for _ in range(config.passes):
        order = torch.randperm(len(steps), generator=rng).to(reward.device)
        moved = torch.zeros(2)
        minibatches = order[: len(order) // config.minibatch * config.minibatch].split(config.minibatch)
        for chosen in minibatches:
            found = objective(method.policies, member, steps, chosen, advantage, weights)
            predicted = critic(steps.nodes(chosen)[0], steps.sizes[chosen])
            fit = ((predicted - returns[chosen]) ** 2).mean()
            ctx.backward(found.loss + 0.5 * fit, len(chosen))
            ctx.update(f"member{member}")
            moved += torch.tensor([found.kl_node, found.kl_content])
            logs.add({**found.logs, "critic_loss": float(fit.detach())}, len(chosen))
            logs.count("policy_updates")
        if bool((moved / len(minibatches) > torch.tensor([config.kl_stop_d, config.kl_stop_c])).any()):
            break
