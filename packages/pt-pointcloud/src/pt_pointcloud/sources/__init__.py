"""Where point clouds come from: a folder of files per class, arrays in .npz or .h5 files, a table of paths, or generated shapes."""

from __future__ import annotations

import glob
from pathlib import Path

from pt_core.errors import DataError, UserError, nearest

from pt_pointcloud.options import DataOptions
from pt_pointcloud.sources._common import Found
from pt_pointcloud.sources.files import is_cloud

__all__ = ["Found", "read"]

BUILTIN = ("shapes",)


def read(spec: str, options: DataOptions) -> Found:
    """Clouds behind a path or `builtin:shapes`.

    Raises:
        DataError: nothing usable there.
        UserError: the path does not exist or is of no known kind.
    """
    if spec.startswith("builtin:"):
        from pt_pointcloud.sources.builtin import read_builtin

        name = spec.partition(":")[2]
        if name not in BUILTIN:
            raise UserError(f"no built-in data {name!r}{nearest(name, BUILTIN)}; known: {', '.join(BUILTIN)}")
        return read_builtin()
    path = Path(spec)
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise UserError(
            f"data {spec!r} do not exist{near}; give a folder, an .npz, .h5, .csv or .parquet file, or builtin:shapes"
        )
    if path.is_dir():
        from pt_pointcloud.sources.arrays import array_parts, read_arrays
        from pt_pointcloud.sources.folder import read_folder

        parts = array_parts(path)
        return read_arrays(parts, options) if parts else read_folder(path, options)
    if path.suffix in (".npz", ".h5", ".hdf5"):
        from pt_pointcloud.sources.arrays import read_arrays

        return read_arrays({"": path}, options)
    if path.suffix in (".csv", ".parquet"):
        from pt_pointcloud.sources.table import read_table

        return read_table(path, options)
    known = (
        "a single cloud; give a folder CLASS/FILE of them"
        if is_cloud(path)
        else "of no known kind; give a folder, .npz, .h5, .csv or .parquet"
    )
    raise DataError(f"data {spec!r} is {known}")


def input_files(item: str | Path) -> list[Path]:
    """Cloud and mesh files for prediction: a file, a folder (searched to any depth), or a pattern such as `scans/*.ply`."""
    path = Path(item)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and is_cloud(p))
        if not files:
            raise DataError(f"folder {path} holds no cloud or mesh")
        return files
    if not path.exists() and glob.has_magic(str(path)):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not files:
            raise DataError(f"no file matches {str(path)!r}")
        return files
    return [path]
