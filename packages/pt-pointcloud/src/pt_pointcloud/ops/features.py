"""What points carry: gathering, grouping, interpolation from three neighbours, and the extreme over neighbours.

Gathers are torch's own on every device (their backward is its scatter-add). Interpolation and the extreme over neighbours would
materialise a tensor per neighbour there, so they have kernels and a backward of their own.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pt_core.errors import DataError
from pt_core.kernels import fast_paths_enabled
from torch import Tensor, nn

from pt_pointcloud.ops._kernels import operator
from pt_pointcloud.ops.points import Convention, ball_query, check_convention, check_points, nearest


def _float(name: str, features: Tensor) -> Tensor:
    if features.ndim != 3:
        raise DataError(f"{name} has shape {tuple(features.shape)}; features are (batch, channel, point)")
    return features if features.dtype in (torch.float32, torch.float64) else features.float()


def gather_operation(features: Tensor, idx: Tensor) -> Tensor:
    """(batch, channel, point), (batch, m) -> (batch, channel, m); the gradient is scatter-added to `features`."""
    values = _float("features", features)
    if idx.ndim != 2 or len(idx) != len(values):
        raise DataError(f"idx has shape {tuple(idx.shape)}; gathering from {len(values)} clouds takes (batch, m)")
    return values.gather(2, idx.long()[:, None].expand(-1, values.shape[1], -1))


def grouping_operation(features: Tensor, idx: Tensor) -> Tensor:
    """(batch, channel, point), (batch, m, s) -> (batch, channel, m, s); the gradient is scatter-added to `features`."""
    if idx.ndim != 3:
        raise DataError(f"idx has shape {tuple(idx.shape)}; grouping takes (batch, m, s)")
    return gather_operation(features, idx.flatten(1)).unflatten(2, idx.shape[1:])


class QueryAndGroup(nn.Module):
    """pointnet2_ops' module: points within a ball, relative to its centre, before their features.

    forward(xyz (batch, point, 3), new_xyz (batch, m, 3), features (batch, channel, point) or None)
    -> (batch, 3 + channel, m, nsample), or (batch, 3, m, nsample) without features; without `use_xyz` the features alone.
    """

    def __init__(
        self, radius: float, nsample: int, use_xyz: bool = True, *, convention: Convention = "pointnet2"
    ) -> None:
        super().__init__()
        self.radius, self.nsample, self.use_xyz, self.convention = radius, nsample, use_xyz, convention

    def forward(self, xyz: Tensor, new_xyz: Tensor, features: Tensor | None = None) -> Tensor:
        if features is None and not self.use_xyz:
            raise DataError("QueryAndGroup has nothing to group: give features or use_xyz=True")
        idx = ball_query(self.radius, self.nsample, xyz, new_xyz, convention=self.convention)
        parts = []
        if self.use_xyz:
            grouped = grouping_operation(xyz.transpose(1, 2), idx)
            parts.append(grouped - new_xyz.to(grouped.dtype).transpose(1, 2)[..., None])
        if features is not None:
            parts.append(grouping_operation(features, idx))
        return torch.cat(parts, 1)


# ---- three nearest neighbours -----------------------------------------------------------------------------------------------


def three_nn(
    unknown: Tensor, known: Tensor, *, convention: Convention = "pointnet2", power: Literal[1, 2] | None = None
) -> tuple[Tensor, Tensor]:
    """The three points of `known` nearest to every point of `unknown`; no gradient.

    Args:
        unknown: (batch, n, 3).
        known: (batch, m, 3). With m < 3 the missing ones are index 0 at distance inf (`pytorch`: an error).
        power: 1 for distances, 2 for squared distances.

    Returns:
        distances (batch, n, 3) ascending, the lower index first among equals, and int32 indices.
    """
    check_convention(convention)
    points, centres = check_points("unknown", unknown), check_points("known", known)
    squared = (power or (1 if convention == "pointnet2" else 2)) == 2
    if convention == "pytorch" and centres.shape[1] < 3:
        raise DataError(f"three neighbours among {centres.shape[1]} points: give at least 3 (convention='pytorch')")
    dist, idx = nearest(centres, points, 3)
    return (dist if squared else dist.sqrt()), idx


def interpolation_weights(dist: Tensor) -> Tensor:
    """(batch, n, 3) -> weights 1 / (dist + 1e-8), normalised; give squared distances for the `pytorch` convention."""
    inverse = 1.0 / (dist + 1e-8)
    return inverse / inverse.sum(2, keepdim=True)


@operator
def _interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    return features.new_empty((features.shape[0], features.shape[1], idx.shape[1]))


@operator
def _interpolate_backward(grad: Tensor, idx: Tensor, weight: Tensor, m: int) -> Tensor:
    return grad.new_empty((grad.shape[0], grad.shape[1], m))


def _save_interpolation(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, idx, weight = inputs
    ctx.save_for_backward(idx, weight)
    ctx.known = features.shape[2]


def _interpolation_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    idx, weight = ctx.saved_tensors
    return _interpolate_backward(grad.contiguous(), idx, weight, ctx.known), None, None


torch.library.register_autograd(
    "pt_pointcloud::interpolate", _interpolation_gradient, setup_context=_save_interpolation
)


def three_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """(batch, channel, m), (batch, n, 3), (batch, n, 3) -> (batch, channel, n): weighted sums; gradient to `features` only."""
    values = _float("features", features)
    if idx.shape != weight.shape or idx.ndim != 3 or idx.shape[2] != 3:
        raise DataError(f"idx {tuple(idx.shape)} and weight {tuple(weight.shape)} must both be (batch, n, 3)")
    fixed = weight.detach().to(values.dtype)
    if values.dtype == torch.float64 or not fast_paths_enabled():
        return (grouping_operation(values, idx) * fixed[:, None]).sum(3)
    return _interpolate(values.contiguous(), idx.int().contiguous(), fixed.contiguous())


# ---- the extreme over neighbours --------------------------------------------------------------------------------------------


@operator
def _extreme(values: Tensor, idx: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(values, dtype=torch.int32)


def _save_extreme(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _extreme_gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
    (chosen,) = ctx.saved_tensors
    return torch.zeros_like(grad).scatter_add(1, chosen.long(), grad), None, None


torch.library.register_autograd("pt_pointcloud::extreme", _extreme_gradient, setup_context=_save_extreme)


def neighbour_extreme(values: Tensor, idx: Tensor, largest: Tensor) -> Tensor:
    """Per token and channel the largest value among the token's neighbours, or the smallest where `largest` is False.

    Args:
        values: (batch, token, channel).
        idx: (batch, token, k) neighbours of every token.
        largest: (channel,) bool.

    Returns:
        (batch, token, channel); the gradient goes to the neighbour that was taken (the first in `idx` among equals).
    """
    if not fast_paths_enabled() or values.dtype == torch.float64:
        rows = idx.long()[..., None].expand(-1, -1, -1, values.shape[2])
        every = values[:, None].expand(-1, idx.shape[1], -1, -1).gather(2, rows)
        return torch.where(largest, every.amax(2), every.amin(2))
    best: Tensor = _extreme(values.float().contiguous(), idx.int().contiguous(), largest.contiguous())[0]
    return best
