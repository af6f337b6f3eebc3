"""Exact point-cloud operators with the call signatures and semantics of pointnet2_ops and KNN_CUDA, on the CPU and on CUDA.

Two published conventions differ in details; both are offered under named arguments, and `convention` picks the defaults:

==========================  ====================================  =========================================
argument                    `pointnet2` (the CUDA operators)      `pytorch` (IDPT's segmentation code)
==========================  ====================================  =========================================
FPS `start`                 index 0                               a random index per cloud
FPS `skip_origin`           points within 0.0316 of the origin    no
                            are never updated nor selected
FPS `ties`                  `tree`: bit-reversed thread, then     `lowest` index
                            the lowest index
ball query `inclusive`      distance < radius                     distance <= radius
ball query, no hit          index 0                               an error (the published code indexes
                                                                  outside the cloud there)
three_nn `power`            distances                             squared distances
==========================  ====================================  =========================================

In both, a ball query takes the first `nsample` hits in index order and pads with the first hit. Inputs are cast to float32, made
contiguous where they are not (the published operators refuse that), and may lie on any device. The loops that
they are tested against are in `pt_pointcloud.ops.reference`; inside `pt_core.kernels.reference_kernels()` what has a gradient is composed
of torch's own operators, which have second derivatives too.
"""

from pt_pointcloud.ops.features import (
    QueryAndGroup,
    gather_operation,
    grouping_operation,
    interpolation_weights,
    neighbour_extreme,
    three_interpolate,
    three_nn,
)
from pt_pointcloud.ops.points import KNN, ball_query, furthest_point_sample, knn

__all__ = [
    "KNN",
    "QueryAndGroup",
    "ball_query",
    "furthest_point_sample",
    "gather_operation",
    "grouping_operation",
    "interpolation_weights",
    "knn",
    "neighbour_extreme",
    "three_interpolate",
    "three_nn",
]
