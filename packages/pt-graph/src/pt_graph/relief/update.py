"""The policy update: rewards to advantages, and the clipped objective of both actors with the penalties to the joint policy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pt_graph.relief.episodes import TINY, Episodes, Ragged, _rows, joint_probabilities, normal_log
from pt_graph.relief.policy import Policy


class RunningScale:
    """Welford's running mean and population std, one update per number; after the very first number the std is that number."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, value: float) -> None:
        self.count += 1
        before = self.mean
        self.mean += (value - before) / self.count
        self.squares += (value - before) * (value - self.mean)
        self.std = value if self.count == 1 else math.sqrt(self.squares / self.count)

    def normalise(self, rewards: Iterable[float]) -> list[float]:
        """Each reward updates, then is normalised; the first batch is seen once before."""
        values = list(rewards)
        if self.count == 0:
            for value in values:
                self.update(value)
        scaled = []
        for value in values:
            self.update(value)
            scaled.append((value - self.mean) / (self.std + 1e-8))
        return scaled


@dataclass(frozen=True)
class Transitions:
    """Steps of several episodes, one row each, graph by graph.

    Attributes:
        states: (row, d) node embeddings, ragged; `first` and `sizes` (transition,) say where each state lies.
        node: (transition,) chosen node. content: (transition, D).
        log_node, log_content: (transition,) under the policy that acted.
        reward: (transition,). ends: (transition,) whether it is a graph's last step.
    """

    states: Tensor
    first: Tensor
    sizes: Tensor
    node: Tensor
    content: Tensor
    log_node: Tensor
    log_content: Tensor
    reward: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.node)

    def nodes(self, chosen: Tensor) -> tuple[Tensor, Ragged]:
        """(row, d) states of the chosen transitions, and their layout."""
        sizes = self.sizes[chosen]
        return self.states[_rows(self.first[chosen], sizes)], Ragged.of(sizes)


def transitions(episodes: Episodes, sizes: Tensor, clip: float | None) -> Transitions:
    """Steps t < n of every graph, in the order (graph, step); reward = drop of the loss (clipped to +-`clip` where given)."""
    assert episodes.losses is not None
    graph = torch.cat(episodes.going)
    step = torch.cat([torch.full_like(rows, t) for t, rows in enumerate(episodes.going)])
    own = sizes[graph]
    first = own.cumsum(0) - own
    order = torch.argsort(graph * (int(sizes.max()) + 1) + step)
    graph, step = graph[order], step[order]
    drop = episodes.losses[:, :-1] - episodes.losses[:, 1:]
    reward = drop[graph, step] if clip is None else drop[graph, step].clamp(-clip, clip)
    actions = episodes.actions
    parts: dict[str, Any] = {
        name: torch.cat([getattr(action, name) for action in actions])[order]
        for name in ("node", "content", "log_node", "log_content")
    }
    ends = step == sizes[graph] - 1
    return Transitions(torch.cat(episodes.states), first[order], own[order], reward=reward, ends=ends, **parts)


def advantages(reward: Tensor, value: Tensor, ends: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantage standardised over all transitions, return), both (transition,), by generalised advantage estimation.

    delta_t = r_t + gamma (1 - end_t) V(S_{t+1}) - V(S_t);  A_t = delta_t + gamma lam (1 - end_t) A_{t+1};  R = A + V
    """
    going = 1 - ends.double()
    following = torch.cat([value[1:], value[-1:]]).double()
    delta = (reward.double() + gamma * going * following - value.double()).tolist()
    factor = (gamma * lam * going).tolist()
    running, found = 0.0, [0.0] * len(delta)
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + factor[t] * running
        found[t] = running
    advantage = torch.tensor(found, dtype=torch.float64, device=value.device)
    returns = advantage + value.double()
    spread = advantage.std() if len(advantage) > 1 else advantage.new_zeros(())
    return ((advantage - advantage.mean()) / (spread + 1e-8)).to(value.dtype), returns.to(value.dtype)


@dataclass(frozen=True)
class Weights:
    """Coefficients of the objective."""

    clip_node: float
    clip_content: float
    entropy: float
    alpha_d: float
    alpha_c: float
    std: float


@dataclass(frozen=True)
class Objective:
    """Loss of one minibatch and what is logged of it; `kl_node`, `kl_content` estimate how far the policy moved."""

    loss: Tensor
    kl_node: float
    kl_content: float
    logs: dict[str, float]


def objective(
    policies: list[Policy], member: int, steps: Transitions, chosen: Tensor, advantage: Tensor, w: Weights
) -> Objective:
    """L_d + L_c of member e for the chosen transitions; gradient reaches member e only.

    L_d = mean[ -min(rho A, clip(rho) A) - c_ent H(pi_e) + alpha_d KL(pi_joint || pi_e) ]
    L_c = mean[ -min(rho A, clip(rho) A) + alpha_c KL( N_e || N_joint ) ] = ... alpha_c |mu_e - mu_joint|^2 / (2 std^2) at a*
    """
    policy = policies[member]
    nodes, layout = steps.nodes(chosen)
    gain = advantage[chosen]
    log = layout.log_probabilities(policy.scores(nodes))
    probability = log.exp()
    log_node = log.gather(1, steps.node[chosen][:, None])[:, 0]
    mean = policy.mean(nodes[layout.first + steps.node[chosen]])
    log_content = normal_log(steps.content[chosen], mean, w.std)
    loss_d, kl_d = clipped(log_node - steps.log_node[chosen], gain, w.clip_node)
    loss_c, kl_c = clipped(log_content - steps.log_content[chosen], gain, w.clip_content)
    entropy = -(probability * torch.where(layout.real(), log, 0.0)).sum(1)
    penalty_d = penalty_c = entropy.new_zeros(())
    if len(policies) > 1:
        with torch.no_grad():
            others = [layout.log_probabilities(p.scores(nodes)).exp() for n, p in enumerate(policies) if n != member]
            everyone = [*others[:member], probability.detach(), *others[member:]]
            joint = joint_probabilities(everyone)
            best = torch.stack(everyone).amax(0).argmax(1)
        penalty_d = node_penalty(joint, probability, layout.real()).mean()
        at = nodes[layout.first + best]
        own = policy.mean(at)
        with torch.no_grad():
            shared = torch.stack([own.detach() if n == member else p.mean(at) for n, p in enumerate(policies)]).mean(0)
        penalty_c = content_penalty(own, shared, w.std).mean()
    total = loss_d - w.entropy * entropy.mean() + w.alpha_d * penalty_d + loss_c + w.alpha_c * penalty_c
    parts = {"entropy": entropy.mean(), "penalty_d": penalty_d, "penalty_c": penalty_c}
    logs = {name: float(value.detach()) for name, value in parts.items()}
    return Objective(total, kl_d, kl_c, logs)


def clipped(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, float]:
    """(mean of -min(rho A, clip(rho, 1 - c, 1 + c) A), mean of (rho - 1) - log rho)."""
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
    return loss, float(((ratio - 1) - log_ratio).detach().mean())


def node_penalty(joint: Tensor, own: Tensor, real: Tensor) -> Tensor:
    """(graph,) KL(pi_joint || pi_e), 1e-10 added to both before they are normalised again; padding takes no part."""
    target, current = ((p.double() + TINY) * real for p in (joint, own))
    target, current = target / target.sum(1, keepdim=True), current / current.sum(1, keepdim=True)
    safe_target, safe_current = target.where(real, target.new_ones(())), current.where(real, current.new_ones(()))
    return (safe_target * (safe_target.log() - safe_current.log()) * real).sum(1).to(own.dtype)


def content_penalty(own: Tensor, shared: Tensor, std: float) -> Tensor:
    """(graph,) KL( N(own, std^2) || N(shared, std^2) ) = |own - shared|^2 / (2 std^2)."""
    return ((own - shared) ** 2).sum(1) / (2 * std**2)
