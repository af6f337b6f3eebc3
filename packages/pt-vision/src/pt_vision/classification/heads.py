"""The classification head of VPT's released code and how it is trained, shared by methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pt_core.randomness import Dropout
from torch import Tensor, nn
from torch.nn import functional as F

RECIPE: Mapping[str, Any] = {
    "optimizer": "sgd",
    "lr": 5.0,
    "lr_per_256": True,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "epochs": 100,
    "warmup_epochs": 10,
}
"""Training options of VPT and its pixel placements. The learning rate is ours: the paper searches it per task."""
BIAS = -4.59512
"""-log(99): a prior of 0.01 left over from a sigmoid loss. A constant shift under softmax; kept for parity."""


class RowNorm(nn.BatchNorm1d):
    """BatchNorm that normalises a single row by its running statistics: the last batch of an epoch may hold one, which has no variance."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def build_head(dim: int, classes: int, hidden_layers: int = 0) -> nn.Module:
    """Linear(dim, classes), behind `hidden_layers` blocks of Linear, ReLU, BatchNorm and dropout 0.1.

    Weights are Kaiming-normal (fan_out), the last bias is -log(99).
    """
    layers: list[nn.Module] = []
    for number in range(hidden_layers):
        layers += [nn.Linear(dim, dim), nn.ReLU(), RowNorm(dim), Dropout(0.1, f"head.{number}")]
    last = nn.Linear(dim, classes)
    for module in [*layers, last]:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=0, mode="fan_out")
    nn.init.constant_(last.bias, BIAS)
    return nn.Sequential(*layers, last) if layers else last


def decay_groups(module: nn.Module, head: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of a module with a head: everything decays but the head's last bias (official behaviour)."""
    bias = list(head.parameters())[-1]
    return [{"params": [p for p in module.parameters() if p is not bias]}, {"params": [bias], "weight_decay": 0.0}]
