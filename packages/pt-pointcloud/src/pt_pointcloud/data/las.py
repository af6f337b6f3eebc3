"""Lidar's .las and .laz files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError, require


def read_las(path: Path, shown: str) -> NDArray[np.float64]:
    """(point, 3) coordinates, scaled and shifted as the header says.

    Raises:
        MissingExtra: laspy is not installed.
        DataError: damaged, or with fewer points than the header says.
    """
    laspy: Any = require("laspy", "pt-pointcloud[las]")
    try:
        found = laspy.read(path)
        announced, points = int(found.header.point_count), np.asarray(found.xyz, dtype=np.float64)
    except Exception as error:  # laspy and its decompressors raise many kinds on damaged files
        raise DataError(
            f"cloud {shown!r} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from None
    if announced != len(points):
        raise DataError(f"cloud {shown!r} announces {announced} points and has {len(points)}; it is cut")
    return points
