"""The projection head of the graph methods."""

from __future__ import annotations

from torch import nn


def build_head(dim: int, outputs: int, layers: int = 1) -> nn.Sequential:
    """`layers` Linear layers of width `dim` with ReLU between, the last one to `outputs`; PyTorch's default initial values.

    Parameters: (layers - 1)(d^2 + d) + d C + C.
    """
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(dim, dim), nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(dim, outputs))
