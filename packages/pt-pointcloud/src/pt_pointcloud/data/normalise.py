"""Named normalisation rules of clouds, and the check of their coordinates."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

Cloud = NDArray[np.float32]
Rule = Literal["unit_sphere", "as_stored"]
RULES = ("unit_sphere", "as_stored")
ROUNDED = 1e-4
"""Largest share of a cloud's extent that rounding to float32 may move a point."""
NEAR_ORIGIN = 0.0316
"""Furthest point sampling (pointnet2 convention) skips points closer to the origin than this."""


def check_cloud(points: NDArray[np.floating], name: str) -> Cloud:
    """(point, 3) float32. Clouds so far from the origin that float32 would round their shape (maps in metres) are centred before.

    Raises:
        DataError: another shape, no points, or coordinates that are not finite; names the sample.
    """
    if points.dtype.kind not in "iuf":
        raise DataError(f"cloud {name!r} holds no numbers")
    if points.ndim != 2 or points.shape[1] != 3:
        raise DataError(f"cloud {name!r} has shape {points.shape}; expected (point, 3): choose columns of x, y, z")
    if not len(points):
        raise DataError(f"cloud {name!r} has no points")
    bad = ~np.isfinite(points).all(1)
    if bad.any():
        raise DataError(
            f"cloud {name!r} has NaN or infinite coordinates in {int(bad.sum())} of {len(points)} points; remove them"
        )
    span, far = float(np.ptp(points, axis=0).max()), float(np.abs(points).max())
    if points.dtype.itemsize > 4 and span > 0 and far * 2**-24 > ROUNDED * span:
        points = points - points.mean(0)
    with np.errstate(over="ignore"):
        single = points.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"cloud {name!r} has coordinates beyond float32; scale it")
    return single


def normalise(points: Cloud, rule: Rule) -> Cloud:
    """`unit_sphere`: centred on the mean, divided by the largest norm (ModelNet, ShapeNet). `as_stored`: unchanged (ScanObjectNN)."""
    if rule == "as_stored":
        return points
    wide = points.astype(np.float64)
    centred = wide - wide.mean(0)
    radius = float(np.sqrt((centred**2).sum(1).max()))
    return (centred / radius if radius > 0 else centred).astype(np.float32)


def near_origin(points: Cloud) -> bool:
    """Whether furthest point sampling would skip every point."""
    return bool(((points.astype(np.float64) ** 2).sum(1) <= 1e-3).all())
