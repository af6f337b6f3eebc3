"""The critic of POND's fidelity term: projections of dP and of (feature, label) into one space where InfoNCE compares them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pt_timeseries.pond.information import infonce

SHORTEST = 0.1
"""Length of u below which InfoNCE is linear in it: dP starts at 0, where a cosine has no gradient. The data are z-scores, and a dP of their
size gives u a length of about sqrt(q / 3); this is about a fiftieth of it."""


class Fidelity(nn.Module):
    """I(dP ; (X, Y)) from below, with u = W_p vec(dP) and v = W_z [f(X~) ; e(Y)]; f gets no gradient.

    Parameters: q n m + q (d + q) + C q.
    """

    def __init__(self, prompt: int, feature: int, classes: int, dim: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.floor = SHORTEST
        self.label = nn.Embedding(classes, dim)
        self.prompt = nn.Linear(prompt, dim, bias=False)
        self.data = nn.Linear(feature + dim, dim, bias=False)

    def forward(self, delta: Tensor, feature: Tensor, target: Tensor | None) -> Tensor:
        """The estimate in nats, at most log K.

        Shapes: delta (K, n, m), feature (K, d), target (K,) or None for unlabelled windows (then e(Y) is 0).
        """
        code = self.label(target) if target is not None else feature.new_zeros(len(feature), self.label.embedding_dim)
        v = self.data(torch.cat([feature.detach(), code], -1))
        return infonce(self.prompt(delta.flatten(1)), v, self.temperature, self.floor)
