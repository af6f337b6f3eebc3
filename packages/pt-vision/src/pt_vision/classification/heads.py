"""The classification head of VPT's released code, shared by methods."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

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
    for _ in range(hidden_layers):
        layers += [nn.Linear(dim, dim), nn.ReLU(), RowNorm(dim), nn.Dropout(0.1)]
    last = nn.Linear(dim, classes)
    for module in [*layers, last]:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=0, mode="fan_out")
    nn.init.constant_(last.bias, BIAS)
    return nn.Sequential(*layers, last) if layers else last
