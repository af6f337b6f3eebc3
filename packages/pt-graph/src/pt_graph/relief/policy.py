"""RELIEF's networks: two actors that look at every node, and a critic of the whole graph."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


def actor(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with Tanh between; orthogonal with gain sqrt(2), 0.01 for the last one, biases 0."""
    layers: list[nn.Module] = []
    for number, (width, out) in enumerate(itertools.pairwise(widths)):
        linear = nn.Linear(width, out)
        last = number == len(widths) - 2
        if not linear.weight.is_meta:
            nn.init.orthogonal_(linear.weight, 0.01 if last else math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class Policy(nn.Module):
    """One member of the ensemble.

    discrete   Linear(d, d/2) Tanh Linear(d/2, d/4) Tanh Linear(d/4, 1): which node
    continuous Linear(d, d/2) Tanh Linear(d/2, d/2) Tanh Linear(d/2, D): mean of the prompt, z_max tanh(.)

    Parameters at d = D = 300: 56,551 + 113,100.
    """

    def __init__(self, dim: int, prompt_dim: int, z_max: float) -> None:
        super().__init__()
        self.z_max = z_max
        self.discrete = actor((dim, dim // 2, dim // 4, 1))
        self.continuous = actor((dim, dim // 2, dim // 2, prompt_dim))

    def scores(self, nodes: Tensor) -> Tensor:
        """(node,) logits of being chosen."""
        result: Tensor = self.discrete(nodes)[:, 0]
        return result

    def mean(self, nodes: Tensor) -> Tensor:
        """(row, D) mean of the content for the chosen nodes."""
        return self.z_max * torch.tanh(self.continuous(nodes))


class FlatCritic(nn.Module):
    """V(S) of the padded state: (graph, N d) -> floor(0.05 N d) -> floor(0.025 N d) -> 1, ReLU between.

    Parameters: 80.4 M at N = 132, d = 300.
    """

    def __init__(self, dim: int, most: int) -> None:
        super().__init__()
        self.dim, self.most = dim, most
        width = dim * most
        self.layers = critic_layers(width, max(1, int(0.05 * width)), max(1, int(0.025 * width)))

    def forward(self, nodes: Tensor, sizes: Tensor) -> Tensor:
        """(graph,) values of ragged node rows (sum of sizes, d)."""
        padded = nodes.new_zeros(len(sizes), self.most, self.dim)
        graph = torch.repeat_interleave(torch.arange(len(sizes), device=nodes.device), sizes, output_size=len(nodes))
        local = torch.arange(len(nodes), device=nodes.device) - (sizes.cumsum(0) - sizes)[graph]
        padded[graph, local] = nodes
        result: Tensor = self.layers(padded.flatten(1))[:, 0]
        return result


class PooledCritic(nn.Module):
    """V(S) of the mean node: d -> d -> d/2 -> 1, ReLU between. Not the published critic; its size does not depend on N."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = critic_layers(dim, dim, dim // 2)

    def forward(self, nodes: Tensor, sizes: Tensor) -> Tensor:
        """(graph,) values of ragged node rows."""
        graph = torch.repeat_interleave(torch.arange(len(sizes), device=nodes.device), sizes, output_size=len(nodes))
        total = nodes.new_zeros(len(sizes), nodes.shape[1]).index_add(0, graph, nodes)
        result: Tensor = self.layers(total / sizes[:, None])[:, 0]
        return result


def critic_layers(*widths: int) -> nn.Sequential:
    """Xavier-normal with the gain of ReLU, biases 0."""
    layers: list[nn.Module] = []
    for width, out in zip(widths, [*widths[1:], 1], strict=True):
        linear = nn.Linear(width, out)
        nn.init.xavier_normal_(linear.weight, nn.init.calculate_gain("relu"))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
