"""One file, one cloud: meshes are sampled, point files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.data import stable_seed
from pt_core.errors import DataError, UserError

from pt_pointcloud.data.las import read_las
from pt_pointcloud.data.normalise import Cloud, check_cloud
from pt_pointcloud.data.pcd import read_pcd
from pt_pointcloud.data.texts import read_text

MESHES = (".off", ".obj", ".stl", ".ply")
"""A .ply (or .obj) without faces is read as a cloud."""
TEXTS = (".txt", ".xyz", ".pts", ".asc")
ARRAYS = (".npy", ".npz")
LIDAR = (".las", ".laz")
SUFFIXES = (*MESHES, *TEXTS, *ARRAYS, ".pcd", *LIDAR)
POINT_KEYS = ("points", "xyz", "pos", "pc", "data", "arr_0")


def is_cloud(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith((".", "_"))


def read_cloud(
    path: Path, mesh_points: int, seed: int, name: str | None = None, part_column: int | None = None
) -> tuple[Cloud, NDArray[np.int64] | None]:
    """The points of a file, as stored, and the part of each where a column holds it.

    A mesh is sampled uniformly by area with a generator keyed by (seed, name), so that a file gives the same points wherever it is read.

    Raises:
        DataError: the file cannot be read, or its coordinates cannot be used; names it.
    """
    shown, suffix = name or str(path), path.suffix.lower()
    if not path.is_file():
        raise DataError(f"cloud {shown!r} does not exist")
    if suffix not in SUFFIXES:
        raise DataError(f"cloud {shown!r} is of no known kind; known: {', '.join(SUFFIXES)}")
    try:
        if suffix in MESHES:
            return check_cloud(_mesh(path, mesh_points, stable_seed(seed, "mesh", name or path.name)), shown), None
        if suffix == ".pcd" or suffix in LIDAR:
            if part_column is not None:
                raise DataError(f"cloud {shown!r}: {suffix} files have no columns of parts (--part-column)")
            return check_cloud(read_pcd(path, shown) if suffix == ".pcd" else read_las(path, shown), shown), None
        table, axes = read_text(path, shown) if suffix in TEXTS else (_array(path), (0, 1, 2))
    except UserError:
        raise
    except Exception as error:  # readers of mesh formats raise many kinds on damaged files
        raise DataError(
            f"cloud {shown!r} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from None
    if table.ndim != 2 or table.shape[1] < 3:
        raise DataError(f"cloud {shown!r} has shape {table.shape}; expected one point per row, with x, y, z first")
    parts = None
    if part_column is not None:
        if not -table.shape[1] <= part_column < table.shape[1]:
            raise DataError(
                f"cloud {shown!r} has {table.shape[1]} columns, there is no column {part_column} (--part-column)"
            )
        column = table[:, part_column]
        if not np.equal(np.mod(column, 1), 0).all() or column.min() < 0:
            raise DataError(f"cloud {shown!r}: column {part_column} holds values that are no part numbers from 0 up")
        parts = column.astype(np.int64)
    return check_cloud(table[:, axes], shown), parts


def _mesh(path: Path, count: int, seed: int) -> NDArray[np.float64]:
    import trimesh

    loaded: Any = trimesh.load(path, process=False)
    if isinstance(loaded, trimesh.Scene):
        loaded = loaded.to_geometry() if loaded.geometry else None
    if loaded is None or not len(getattr(loaded, "vertices", ())):
        raise DataError(f"{path} holds no geometry")
    if not isinstance(loaded, trimesh.Trimesh) or not len(loaded.faces):
        return np.asarray(loaded.vertices, dtype=np.float64)
    if not np.isfinite(loaded.vertices).all():
        raise DataError(f"mesh {str(path)!r} has NaN or infinite vertices; mend it")
    if not loaded.area > 0:
        raise DataError(f"mesh {str(path)!r} has no area to sample points from")
    points, _ = trimesh.sample.sample_surface(loaded, count, seed=seed)
    return np.asarray(points, dtype=np.float64)


def _array(path: Path) -> NDArray[np.float64]:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content.astype(np.float64)
    with content:
        key = next((key for key in POINT_KEYS if key in content.files), None)
        if key is None:
            raise DataError(f"{path} has none of the arrays {', '.join(POINT_KEYS)}; it has {', '.join(content.files)}")
        found: NDArray[np.float64] = content[key].astype(np.float64)
        return found
