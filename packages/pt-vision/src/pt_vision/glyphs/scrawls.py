"""Invented characters, drawn each time by a slightly different hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pt_vision.data import augment
from pt_vision.glyphs.characters import CANVAS


class Scrawls:
    """Invented characters: each class is one to three strokes, a stroke is a smooth curve through four random points.

    `draw` moves the points a little and takes another pen each time, as another hand would.
    """

    def __init__(self, classes: int, rng: np.random.Generator) -> None:
        self.points = torch.zeros(classes, 3, 4, 2)  # (class, stroke, point, xy) in [-1, 1]
        for c in range(classes):
            strokes = int(rng.integers(1, 4))
            points = torch.from_numpy(rng.uniform(-0.62, 0.62, (3, 4, 2))).float()
            # Further strokes start where the one before passes, so that the character hangs together.
            for s in range(1, 3):
                points[s] = points[s - 1].roll(1, 0) if s >= strokes else points[s]
                points[s, 0] = points[s - 1, int(rng.integers(1, 4))]
            for s in range(strokes, 3):
                points[s] = points[0]
            self.points[c] = points
        u = torch.linspace(0, 1, 14)
        # Cubic Lagrange basis at the nodes 0, 1/3, 2/3, 1: the curve goes through the points.
        nodes = torch.tensor([0, 1 / 3, 2 / 3, 1])
        self.basis = torch.stack(
            [
                torch.stack([(u - nodes[j]) / (nodes[i] - nodes[j]) for j in range(4) if j != i]).prod(0)
                for i in range(4)
            ]
        )

    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """labels: (batch,) class numbers -> masks (batch, 1, CANVAS, CANVAS) in [0, 1]."""
        batch = len(labels)
        points = self.points[labels] + 0.05 * torch.randn(batch, 3, 4, 2, generator=rng)
        curve = torch.einsum("bspx,pu->bsux", points, self.basis).flatten(1, 2)  # (batch, 42, xy)
        axis = (torch.arange(CANVAS) + 0.5) / CANVAS * 2 - 1
        dx = (axis.view(1, 1, -1) - curve[..., :1]).square()
        dy = (axis.view(1, 1, -1) - curve[..., 1:]).square()
        distance = (dy.unsqueeze(-1) + dx.unsqueeze(-2)).amin(1).sqrt()  # (batch, row, column)
        pen = augment.uniform(batch, 0.05, 0.13, rng).view(-1, 1, 1)
        return ((pen - distance) * (CANVAS / 2) + 0.5).clamp(0, 1).unsqueeze(1)
