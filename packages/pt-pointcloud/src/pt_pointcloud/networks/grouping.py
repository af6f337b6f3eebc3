"""Patches of a cloud: G centres by furthest point sampling, and the M nearest points of each, relative to it."""

from __future__ import annotations

import torch
from pt_core.errors import DataError
from torch import Tensor

from pt_pointcloud.ops import furthest_point_sample, knn


def group_indices(points: Tensor, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Indices of the centres (batch, group) and of their patches (batch, group, point), int64.

    Raises:
        DataError: fewer points than groups, or than points of a patch.
    """
    count = points.shape[1]
    if count < groups:
        raise DataError(f"a cloud has {count} points; need at least G={groups} for the centres of its patches")
    if count < size:
        raise DataError(f"a cloud has {count} points; need at least M={size} for the nearest neighbours of a patch")
    centres = furthest_point_sample(points, groups).long()
    at = points.gather(1, centres[..., None].expand(-1, -1, 3))
    return centres, knn(points, at, size)[1]


def take(points: Tensor, index: Tensor) -> Tensor:
    """(batch, point, 3) at (batch, ...) -> (batch, ..., 3)."""
    flat = points.gather(1, index.flatten(1).long()[..., None].expand(-1, -1, 3))
    return flat.unflatten(1, index.shape[1:])


def patches(points: Tensor, centres: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (batch, group, 3) and patches (batch, group, point, 3) relative to them; not scaled."""
    at = take(points, centres)
    return at, take(points, neighbours) - at[:, :, None]


def group(points: Tensor, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Both steps: (batch, point, 3) -> centres (batch, group, 3) and patches (batch, group, point, 3)."""
    with torch.no_grad():
        return patches(points, *group_indices(points, groups, size))
