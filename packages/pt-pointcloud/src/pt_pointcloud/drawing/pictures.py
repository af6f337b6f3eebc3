"""Pictures of clouds: four views in a square, points coloured by depth, by a value, or by part; drawn without a plotting library."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating]
VIEWS = ((30.0, 20.0), (120.0, 20.0), (210.0, 20.0), (30.0, 80.0))
"""(turn about y, tilt) in degrees."""
PALETTE = np.array(
    [
        *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75)),
        *((227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207)),
    ],
    dtype=np.float64,
)


def draw(
    points: Points,
    colours: NDArray[np.float64] | None = None,
    side: int = 120,
    views: Sequence[tuple[float, float]] = VIEWS,
) -> bytes:
    """PNG of (point, 3) clouds, `side` pixels per view; four views make a square, others a row.

    Args:
        colours: (point, 3) in 0..255; None shades by depth.
    """
    from PIL import Image

    centred = np.asarray(points, dtype=np.float64) - np.mean(points, axis=0)
    scale = 0.46 * side / max(1e-9, np.linalg.norm(centred, axis=1).max())
    tiles = []
    for turn, tilt in views:
        a, b = np.radians(turn), np.radians(tilt)
        x = centred[:, 0] * np.cos(a) + centred[:, 2] * np.sin(a)
        z = -centred[:, 0] * np.sin(a) + centred[:, 2] * np.cos(a)
        y, depth = centred[:, 1] * np.cos(b) - z * np.sin(b), centred[:, 1] * np.sin(b) + z * np.cos(b)
        near = (depth - depth.min()) / max(1e-9, np.ptp(depth))
        base = (
            np.full((len(points), 3), (40.0, 80.0, 140.0)) if colours is None else np.asarray(colours, dtype=np.float64)
        )
        shade = base + (255 - base) * (0.55 * (1 - near))[:, None]
        tile = np.full((side, side, 3), 255, dtype=np.uint8)
        column, row = np.round(side / 2 + scale * x).astype(int), np.round(side / 2 - scale * y).astype(int)
        order = np.argsort(depth, kind="stable")  # the nearest last: later values overwrite earlier ones
        for down, right in ((1, 1), (1, 0), (0, 1), (0, 0)):
            tile[(row[order] - down).clip(0), (column[order] - right).clip(0)] = shade[order]
        tiles.append(tile)
    buffer = io.BytesIO()
    rows = [tiles[:2], tiles[2:]] if len(tiles) == 4 else [tiles]
    Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows])).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def by_part(parts: NDArray[np.integer]) -> NDArray[np.float64]:
    """(point,) part numbers as colours."""
    return PALETTE[np.asarray(parts) % len(PALETTE)]


def by_value(values: Points) -> NDArray[np.float64]:
    """(point,) values as colours from pale blue (the least) to red (the most)."""
    span = (values - values.min()) / max(1e-12, float(np.ptp(values)))
    low, high = np.array([180.0, 205.0, 235.0]), np.array([200.0, 20.0, 20.0])
    return low + (high - low) * span[:, None]
