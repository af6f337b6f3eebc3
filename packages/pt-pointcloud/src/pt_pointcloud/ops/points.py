"""Which points: furthest point sampling, nearest neighbours, ball query. None of them has a gradient."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pt_core.errors import DataError
from torch import Tensor, nn

from pt_pointcloud.ops._kernels import operator

Convention = Literal["pointnet2", "pytorch"]
CONVENTIONS = ("pointnet2", "pytorch")


def check_points(name: str, xyz: Tensor) -> Tensor:
    """(batch, point, 3) as contiguous float32.

    Raises:
        DataError: another shape, or no point.
    """
    if xyz.ndim != 3 or xyz.shape[-1] != 3:
        raise DataError(f"{name} has shape {tuple(xyz.shape)}; point clouds are (batch, point, 3)")
    if xyz.shape[1] == 0:
        raise DataError(f"{name} has no points")
    return xyz.detach().float().contiguous()


def check_convention(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise DataError(f"convention={convention!r} is unknown; use {' or '.join(map(repr, CONVENTIONS))}")


# ---- furthest point sampling ------------------------------------------------------------------------------------------------


@operator
def _fps(xyz: Tensor, m: int, start: Tensor, skip_origin: bool, tree: bool) -> Tensor:
    return xyz.new_empty((xyz.shape[0], m), dtype=torch.int32)


def furthest_point_sample(
    xyz: Tensor,
    m: int,
    *,
    convention: Convention = "pointnet2",
    start: int | Tensor | Literal["random"] | None = None,
    skip_origin: bool | None = None,
    ties: Literal["tree", "lowest"] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """m points, each the furthest from those before it.

    Step j: t_k = min(t_k, |x_k - x_last|^2) from t_k = 1e10; next = argmax t. Where m exceeds the eligible points, chosen ones repeat;
    where none is eligible, index 0 repeats. The first j indices do not depend on m.

    Args:
        xyz: (batch, point, 3).
        m: number of samples.
        convention: sets the defaults of the arguments below (see the package).
        start: index of the first sample: one for all clouds, (batch,), or `random` from `generator`.
        skip_origin: leave out points with x^2 + y^2 + z^2 <= 1e-3; only the start may be one.
        ties: which of equally far points is taken.

    Returns:
        (batch, m) int32.

    Raises:
        DataError: a wrong shape, m < 1, or a start outside the cloud.
    """
    check_convention(convention)
    points = check_points("xyz", xyz)
    batch, n, _ = points.shape
    if m < 1:
        raise DataError(f"m={m} samples were asked for; give at least 1")
    published = convention == "pointnet2"
    skip = published if skip_origin is None else skip_origin
    rule = ("tree" if published else "lowest") if ties is None else ties
    if rule not in ("tree", "lowest"):
        raise DataError(f"ties={rule!r} is unknown; use 'tree' or 'lowest'")
    chosen = (0 if published else "random") if start is None else start
    if isinstance(chosen, str):
        if chosen != "random":
            raise DataError(f"start={chosen!r} is unknown; give an index, a tensor of indices, or 'random'")
        first = torch.randint(n, (batch,), generator=generator).to(points.device)
    else:
        first = torch.as_tensor(chosen, dtype=torch.long, device=points.device).expand(batch).contiguous()
        outside = isinstance(chosen, int) and not 0 <= chosen < n
        if outside or (isinstance(chosen, Tensor) and not bool(((first >= 0) & (first < n)).all())):
            raise DataError(f"start={chosen} lies outside the {n} points")
    return _fps(points, m, first, skip, rule == "tree")


# ---- nearest neighbours -----------------------------------------------------------------------------------------------------


@operator
def nearest(ref: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances (batch, query, k) ascending and int32 indices; (inf, 0) where there are fewer than k points."""
    shape = (query.shape[0], query.shape[1], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int32)


def knn(ref: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k points of `ref` nearest to every query: KNN_CUDA's operator with `transpose_mode=True`.

    Distances are computed from differences (not by the expanded formula) and in blocks, so memory does not grow with the number of
    points; equal distances keep the earlier index first.

    Args:
        ref: (batch, point, 3).
        query: (batch, query, 3).

    Returns:
        Euclidean distances (batch, query, k) float32, ascending, and indices (batch, query, k) int64.

    Raises:
        DataError: a wrong shape, or fewer than k points.
    """
    points, queries = check_points("ref", ref), check_points("query", query)
    if len(points) != len(queries):
        raise DataError(f"ref has {len(points)} clouds, query {len(queries)}")
    if not 1 <= k <= points.shape[1]:
        raise DataError(f"k={k} neighbours of clouds of {points.shape[1]} points; k must lie in 1..{points.shape[1]}")
    dist, idx = nearest(points, queries, k)
    return dist.sqrt(), idx.long()


class KNN(nn.Module):
    """KNN_CUDA's class: `KNN(k, transpose_mode)(ref, query)`; without `transpose_mode` all tensors have their last two axes swapped."""

    def __init__(self, k: int, transpose_mode: bool = False) -> None:
        super().__init__()
        self.k, self.transpose_mode = k, transpose_mode

    def forward(self, ref: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        if self.transpose_mode:
            return knn(ref, query, self.k)
        dist, idx = knn(ref.transpose(1, 2), query.transpose(1, 2), self.k)
        return dist.transpose(1, 2).contiguous(), idx.transpose(1, 2).contiguous()


# ---- ball query -------------------------------------------------------------------------------------------------------------


@operator
def _ball(xyz: Tensor, new_xyz: Tensor, radius: float, nsample: int, inclusive: bool) -> Tensor:
    return xyz.new_empty((new_xyz.shape[0], new_xyz.shape[1], nsample), dtype=torch.int32)


def ball_query(
    radius: float,
    nsample: int,
    xyz: Tensor,
    new_xyz: Tensor,
    *,
    convention: Convention = "pointnet2",
    inclusive: bool | None = None,
) -> Tensor:
    """The first `nsample` points, in index order, within `radius` of every centre; missing ones repeat the first.

    Args:
        radius: compared as radius^2 in float32.
        xyz: (batch, point, 3).
        new_xyz: (batch, centre, 3).
        inclusive: whether a point at exactly the radius counts.

    Returns:
        (batch, centre, nsample) int32.

    Raises:
        DataError: a wrong shape or number; with `convention="pytorch"`, a ball without any point.
    """
    check_convention(convention)
    points, centres = check_points("xyz", xyz), check_points("new_xyz", new_xyz)
    if not (radius > 0 and np.isfinite(radius)) or nsample < 1:
        raise DataError(f"radius={radius} and nsample={nsample}: both must be above 0")
    closed = convention == "pytorch" if inclusive is None else inclusive
    found = _ball(points, centres, float(radius), nsample, closed)
    if convention == "pytorch" and not isinstance(found, torch._subclasses.FakeTensor) and bool((found < 0).any()):
        raise DataError(f"a centre has no point within radius={radius}; enlarge it (convention='pytorch')")
    return found.clamp(min=0)
