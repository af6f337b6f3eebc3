"""Features of patches carried to all points of the cloud, for heads that predict per point."""

from __future__ import annotations

import torch
from torch import Tensor

from pt_pointcloud.ops import interpolation_weights, three_interpolate, three_nn


def default_layers(depth: int) -> tuple[int, int, int]:
    """Three blocks at equal distances, the last one included: 3, 7, 11 of 12."""
    return depth // 3 - 1, 2 * depth // 3 - 1, depth - 1


def propagate(points: Tensor, centres: Tensor, features: Tensor) -> Tensor:
    """(batch, N, 3), (batch, G, 3), (batch, G, C) -> (batch, N, C): three nearest centres, weights 1 / (d^2 + 1e-8) as in IDPT's
    segmentation code."""
    dist, idx = three_nn(points, centres, convention="pytorch")
    carried = three_interpolate(features.transpose(1, 2), idx, interpolation_weights(dist))
    return torch.as_tensor(carried).transpose(1, 2)
