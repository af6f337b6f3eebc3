"""The head of the published models, and a BatchNorm that names what a batch of one lacks."""

from __future__ import annotations

from pt_core.errors import DataError
from pt_core.randomness import Dropout
from torch import Tensor, nn

HIDDEN = 256


class Norm(nn.BatchNorm1d):
    """BatchNorm over all axes but the last.

    Raises:
        DataError: one row in train mode, which has no variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if self.training and rows < 2:
            raise DataError(
                "a training batch of one cloud cannot be normalised over the batch (BatchNorm); choose a --batch-size that leaves 2 or "
                "more in every batch, micro-batch and process"
            )
        return super().forward(x.flatten(0, -2)).view_as(x)


def build_head(width: int, classes: int) -> nn.Sequential:
    """Linear(width, 256)-BN-ReLU-Dropout(.5)-Linear(256, 256)-BN-ReLU-Dropout(.5)-Linear(256, classes), PyTorch's initial values.

    Parameters: 256 width + 256 * 256 + 256 classes + classes + 6 * 256; 365,839 for width 1152 and 15 classes.
    """
    return nn.Sequential(
        nn.Linear(width, HIDDEN),
        Norm(HIDDEN),
        nn.ReLU(),
        Dropout(0.5, "head 1"),
        nn.Linear(HIDDEN, HIDDEN),
        Norm(HIDDEN),
        nn.ReLU(),
        Dropout(0.5, "head 2"),
        nn.Linear(HIDDEN, classes),
    )
