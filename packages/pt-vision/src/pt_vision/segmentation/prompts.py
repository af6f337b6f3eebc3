"""CoDA's severity-aware visual prompts (SAVPT): pixel prompts and a Meta-Adapter on F_1, one set per severity, for training only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pt_core.backbone import Add, Layout
from pt_core.errors import ConfigError
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.segmentation.severity import high_severity

BLOCKS = 5
PUBLISHED = 64
"""Side of a prompt block on published views of 512 px."""


class Branch(nn.Module):
    """What one severity has: five blocks of pixels, an adapter, and with the released gate a convolution."""

    def __init__(self, dim: int, size: int, latent: int, gate: bool) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.zeros(BLOCKS, 3, size, size))
        self.down, self.up = (
            nn.Parameter(torch.randn(latent, dim) * 0.01),
            nn.Parameter(torch.randn(dim, latent) * 0.01),
        )
        # Biases start as those of a convolution.
        self.down_bias = nn.Parameter((2 * torch.rand(latent, 1) - 1) * dim**-0.5)
        self.up_bias = nn.Parameter((2 * torch.rand(dim, 1) - 1) * latent**-0.5)
        self.gate = nn.Conv2d(dim, 1, 3, padding=1) if gate else None


class SeverityPrompts(nn.Module):
    """Per severity s in {low, high}: five blocks of pixels, an adapter, and (as released) a gate. For a view x of severity s::

        x' = x + five P x P blocks in the corners and the middle      zero at the start
        A(F) = F + W_u relu(W_d F + b_d) + b_u                         on F_1; weights N(0, 0.01)
        F_1' = A(F)                                    or, with `gate`, LayerNorm_width(A(F) softmax_width(w * A(F)))

    Every view of a call is routed by its own severity; a branch that no view takes gets no gradient. Parameters:
    2 * 5 * 3 * P^2 + 2 * (2 * 16 d + 16 + d), and with the gate 2 * (9 d + 1) + 2 * (S / 4), where d is the width of F_1 and S the side
    of a view: 122,880 + 4,256 (+ 1,154 + 256) as published.

    Raises:
        ConfigError: the five blocks would overlap (S < 3 P).
    """

    def __init__(
        self,
        dim: int,
        view: int,
        preprocessing: Mapping[str, Any],
        size: int | None = None,
        latent: int = 16,
        gate: bool = False,
        official_severity: bool = False,
    ) -> None:
        super().__init__()
        self.size = size if size is not None else (PUBLISHED if view >= 512 else max(1, view // 8))
        if view < 3 * self.size:
            raise ConfigError(
                f"prompt_size={self.size} in views of {view} px: the five blocks overlap below {3 * self.size} px; lower prompt_size, or "
                "raise crop_size"
            )
        self.view, self.preprocessing, self.official_severity = view, dict(preprocessing), official_severity
        self.branches = nn.ModuleList(Branch(dim, self.size, latent, gate) for _ in ("low", "high"))
        self.norm = nn.LayerNorm(view // 4) if gate else None
        self._severity = torch.zeros(0, dtype=torch.long)

    def corners(self) -> list[tuple[int, int]]:
        """(row, column) of the five blocks."""
        far, middle = self.view - self.size, (self.view - self.size) // 2
        return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]

    def canvas(self, prompts: Tensor) -> Tensor:
        """(5, 3, P, P) blocks on a canvas of zeros, (3, S, S)."""
        canvas = prompts.new_zeros(3, self.view, self.view)
        for block, (row, column) in zip(prompts, self.corners(), strict=True):
            canvas = canvas + F.pad(block, (column, self.view - column - self.size, row, self.view - row - self.size))
        return canvas

    def _routed(self, value: Callable[[Branch], Tensor]) -> Tensor:
        """(view, ...): a value of every view's branch; branches without a view are not touched."""
        branches: list[Any] = list(self.branches)
        used = self._severity.unique().tolist()
        if len(used) == 1:
            one = value(branches[used[0]])
            return one.expand(len(self._severity), *one.shape)
        return torch.stack([value(branch) for branch in branches])[self._severity]

    def edits(self, views: Tensor) -> Mapping[str, Any]:
        """The edit of a call's pixels; remembers the severities for `adapt`."""
        if views.shape[2:] != (self.view, self.view):
            raise ConfigError(f"prompts are made for views of {self.view} px, got {tuple(views.shape[2:])}")
        self._severity = high_severity(views, self.preprocessing, self.official_severity).long()

        def placed(pixels: Tensor, layout: Layout) -> Tensor:
            return self._routed(lambda branch: self.canvas(branch.prompts))

        return {"pixels": Add(placed)}

    def adapt(self, first: Tensor) -> Tensor:
        """F_1' of the views that `edits` saw last; weights are gathered per view, so that both severities share one product."""
        tokens = first.flatten(2)
        hidden = F.relu(self._routed(lambda b: b.down) @ tokens + self._routed(lambda b: b.down_bias))
        added = self._routed(lambda b: b.up) @ hidden + self._routed(lambda b: b.up_bias)
        out = (tokens + added).view_as(first)
        if self.norm is None:
            return out
        gates: list[Any] = [branch.gate for branch in self.branches]
        weights = torch.cat([gates[int(s)](out[n : n + 1]) for n, s in enumerate(self._severity)]).softmax(-1)
        gated: Tensor = self.norm(out * weights)
        return gated
