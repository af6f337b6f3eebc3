"""Prompting a batch of graphs node by node: at step t every graph with more than t nodes gets one more prompt.

One GNN forward per step serves the whole batch: the embeddings after step t are the state of step t + 1 and give the reward of step t.
Graphs are sorted by size, so that those still going are a prefix of the batch, whose edges are cut, not computed anew. States are kept
ragged: sum over graphs of n^2 rows instead of B T N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pt_core import Add, Edits
from torch import Tensor

from pt_graph.graphs.batch import Graphs
from pt_graph.method import constant
from pt_graph.relief.policy import Policy

Nodes = Callable[[Graphs, Edits], Tensor]
"""(graphs, edits) -> (node, d): the frozen network."""
TINY = 1e-10


@dataclass(frozen=True)
class Ragged:
    """Rows of several graphs, seen as a padded matrix.

    Attributes:
        sizes: (graph,) rows of each.
        graph, local: (row,) graph of each row and place in it.
        first: (graph,) first row.
    """

    sizes: Tensor
    graph: Tensor
    local: Tensor
    first: Tensor
    most: int

    @staticmethod
    def of(sizes: Tensor) -> Ragged:
        first = sizes.cumsum(0) - sizes
        total = int(sizes.sum())
        graph = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes, output_size=total)
        return Ragged(sizes, graph, torch.arange(total, device=sizes.device) - first[graph], first, int(sizes.max()))

    def pad(self, values: Tensor, fill: float) -> Tensor:
        """(graph, most) of (row,) values."""
        return values.new_full((len(self.sizes), self.most), fill).index_put((self.graph, self.local), values)

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """(graph, most) log-softmax over each graph's rows; -inf, so probability exactly 0, at the padding."""
        return self.pad(scores, -torch.inf).log_softmax(1)

    def real(self) -> Tensor:
        """(graph, most) whether there is a row."""
        return torch.arange(self.most, device=self.sizes.device) < self.sizes[:, None]


@dataclass(frozen=True)
class Noise:
    """Random numbers of an episode, drawn per graph, so that they do not depend on the batch.

    Attributes:
        location: (graph, step) uniform in [0, 1).
        content: (graph, step, D) standard normal, or None where only locations are random.
    """

    location: Tensor
    content: Tensor | None

    @staticmethod
    def draw(sizes: Sequence[int], generators: Sequence[torch.Generator], prompt_dim: int | None) -> Noise:
        steps = max(sizes)
        location = torch.zeros(len(sizes), steps)
        content = None if prompt_dim is None else torch.zeros(len(sizes), steps, prompt_dim)
        for row, (size, rng) in enumerate(zip(sizes, generators, strict=True)):
            location[row, :size] = torch.rand(size, generator=rng)
            if content is not None:
                content[row, :size] = torch.randn(size, content.shape[2], generator=rng)
        return Noise(location, content)

    def rows(self, order: Tensor) -> Noise:
        return Noise(self.location[order], None if self.content is None else self.content[order])

    def to(self, device: torch.device) -> Noise:
        return Noise(self.location.to(device), None if self.content is None else self.content.to(device))


@dataclass(frozen=True)
class Action:
    """What was done at one step, one row per graph still going.

    Attributes:
        node: (graph,) chosen node, local.
        content: (graph, D) what is added to its prompt.
        log_node, log_content: (graph,) log-probabilities, where there is a policy to update.
    """

    node: Tensor
    content: Tensor
    log_node: Tensor | None = None
    log_content: Tensor | None = None


Choose = Callable[[int, Tensor, Ragged], Action]
"""(step, nodes (row, d), their layout) -> action."""


@dataclass
class Episodes:
    """What happened, in the order of the given graphs.

    Attributes:
        prompts: (node, D) final prompts.
        nodes: (node, d) embeddings under the final prompts.
        losses: (graph, step + 1) loss before and after each step, 0 beyond a graph's end; None where no loss was asked for.
        states: (step, graph) -> states of the steps, ragged: one tensor (row, d) per step over the graphs `going[t]`.
        going: (graph,) positions per step, in sorted order.
        actions: one per step.
    """

    prompts: Tensor
    nodes: Tensor
    losses: Tensor | None
    states: list[Tensor]
    going: list[Tensor]
    actions: list[Action]


@torch.no_grad()
def play(
    network: Nodes,
    graphs: Graphs,
    prompt_dim: int,
    choose: Callable[[Noise], Choose],
    noise: Noise,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    record: bool = False,
) -> Episodes:
    """One episode per graph.

    Args:
        network: the frozen network in evaluation mode.
        graphs: with features in the space where prompts live.
        prompt_dim: D.
        choose: noise in sorted order -> the policy.
        noise: in the order of `graphs`.
        loss: (pooled (graph, d), positions (graph,)) -> (graph,) loss; positions index the given graphs.
        record: keep states and actions.
    """
    device = graphs.x.device
    order = torch.argsort(graphs.sizes, descending=True, stable=True)
    ordered = graphs.select_rows(order.tolist())
    act = choose(noise.rows(order.cpu()).to(device))
    sizes = ordered.sizes
    steps = int(sizes[0])
    prompts = graphs.x.new_zeros(len(ordered.x), prompt_dim)
    nodes = hidden = network(ordered, {"input": Add(constant(prompts))})
    final = hidden.clone()
    losses = None
    if loss is not None:
        losses = hidden.new_zeros(len(graphs), steps + 1)
        losses[order, 0] = loss(ordered.mean(hidden), order)
    states, going, actions = [], [], []
    current, layout = ordered, Ragged.of(sizes)
    for step in range(steps):
        count = int((sizes > step).sum())
        if count < len(current):
            current = ordered.prefix(count)
            layout = Ragged.of(current.sizes)
        hidden = nodes[: current.nodes]
        action = act(step, hidden, layout)
        if record:
            states.append(hidden if len(hidden) == len(nodes) else hidden.clone())
            going.append(order[:count])
            actions.append(action)
        prompts[layout.first + action.node] += action.content
        nodes = network(current, {"input": Add(constant(prompts[: current.nodes]))})
        final[: len(nodes)] = nodes
        if losses is not None and loss is not None:
            losses[order[:count], step + 1] = loss(current.mean(nodes), order[:count])
    back = torch.argsort(order)
    rows = _rows(ordered.starts[back], graphs.sizes)
    return Episodes(prompts[rows], final[rows], losses, states, going, actions)


def _rows(first: Tensor, sizes: Tensor) -> Tensor:
    """Row numbers first[b] .. first[b] + sizes[b] - 1 of all b, one after the other."""
    total = int(sizes.sum())
    start = torch.repeat_interleave(first - (sizes.cumsum(0) - sizes), sizes, output_size=total)
    return start + torch.arange(total, device=sizes.device)


def member_policy(policy: Policy, std: float, clamp: float | None, noise: Noise) -> Choose:
    """One member acting alone: node ~ Categorical, content ~ N(mean, std^2) (clamped to +-`clamp` where given)."""
    assert noise.content is not None
    content = noise.content

    def act(step: int, nodes: Tensor, layout: Ragged) -> Action:
        log = layout.log_probabilities(policy.scores(nodes))
        node = sample(log.exp(), noise.location[: len(log), step], layout.sizes)
        mean = policy.mean(nodes[layout.first + node])
        value = mean + std * content[: len(log), step].to(mean)
        value = value if clamp is None else value.clamp(-clamp, clamp)
        return Action(node, value, log.gather(1, node[:, None])[:, 0], normal_log(value, mean, std))

    return act


def joint_policy(policies: Sequence[Policy], noise: Noise) -> Choose:
    """The ensemble: node ~ Categorical(joint + 1e-10), content = mean of the members' means."""

    def act(step: int, nodes: Tensor, layout: Ragged) -> Action:
        joint = joint_probabilities([layout.log_probabilities(p.scores(nodes)).exp() for p in policies])
        weights = (joint + TINY) * layout.real()
        node = sample(weights / weights.sum(1, keepdim=True), noise.location[: len(joint), step], layout.sizes)
        chosen = nodes[layout.first + node]
        return Action(node, torch.stack([p.mean(chosen) for p in policies]).mean(0))

    return act


def random_policy(z_max: float, noise: Noise) -> Choose:
    """A uniform node and a content uniform in +-z_max: what a trained policy has to beat."""
    assert noise.content is not None
    content = noise.content

    def act(step: int, nodes: Tensor, layout: Ragged) -> Action:
        count = len(layout.sizes)
        node = (noise.location[:count, step] * layout.sizes).long().clamp(max=layout.sizes - 1)
        uniform = torch.special.ndtr(content[:count, step]).to(nodes)
        return Action(node, z_max * (2 * uniform - 1))

    return act


def joint_probabilities(members: Sequence[Tensor]) -> Tensor:
    """(graph, node): the members' largest probability of each node, divided by its sum."""
    largest = members[0] if len(members) == 1 else torch.stack(list(members)).amax(0)
    return largest if len(members) == 1 else largest / largest.sum(1, keepdim=True)


def sample(probabilities: Tensor, uniform: Tensor, sizes: Tensor) -> Tensor:
    """(graph,) the node at which the cumulative probability passes the uniform number."""
    total = probabilities.double().cumsum(1)
    passed = (total <= uniform.double()[:, None] * total[:, -1:]).sum(1)
    return torch.minimum(passed, sizes - 1)


def normal_log(value: Tensor, mean: Tensor, std: float) -> Tensor:
    """(graph,) log-density of a diagonal normal, summed over D."""
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    return (-((value - mean) ** 2) / (2 * std**2) - constant).sum(1)
