"""Where clouds come from: folders, arrays and tables of files, or generated shapes."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import DataError, nearest, unless_known

from pt_pointcloud.data.found import ARRAY_FILES, Found
from pt_pointcloud.options import DataOptions

BUILTIN = ("shapes",)
TABLES = (".csv", ".tsv", ".parquet")


def problem(spec: str) -> str | None:
    """What is wrong with a data spec, as far as its name and the file system tell; nothing is read."""
    if spec.startswith("builtin:"):
        return unless_known("built-in data", spec.removeprefix("builtin:"), BUILTIN)
    path = Path(spec)
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        return f"data {spec!r} do not exist{near}; give a folder, an .npz, .h5, .csv, .tsv or .parquet file, or builtin:shapes"
    if path.is_dir() or path.suffix in (*ARRAY_FILES, *TABLES):
        return None
    from pt_pointcloud.data.files import is_cloud

    if is_cloud(path):
        return f"data {spec!r} is a single cloud; give a folder CLASS/FILE of them"
    return f"data {spec!r} is of no known kind; give a folder, .npz, .h5, .csv or .parquet"


def read(spec: str, options: DataOptions) -> Found:
    """Clouds behind a path or `builtin:shapes`.

    Raises:
        DataError: it names nothing that there is (see `problem`), or nothing usable.
    """
    wrong = problem(spec)
    if wrong is not None:
        raise DataError(wrong)
    # Each reader is imported where it is used: `problem` must not wait for torch.
    if spec.startswith("builtin:"):
        from pt_pointcloud.data.builtin import read_builtin

        return read_builtin()
    path = Path(spec)
    if path.suffix in TABLES and path.is_file():
        from pt_pointcloud.data.table import read_table

        return read_table(path, options)
    from pt_pointcloud.data.arrays import array_parts, read_arrays

    if path.is_file():
        return read_arrays({"": [path]}, options)
    from pt_pointcloud.data.folder import read_folder
    from pt_pointcloud.data.sets import published_arrays
    from pt_pointcloud.data.shapenet import is_shapenet, read_shapenet

    published = published_arrays(path, options.variant)
    if published is not None:
        found = read_arrays(published.files, options, published.classes, published.part_names)
        found.notes += published.notes
        return found
    if is_shapenet(path):
        return read_shapenet(path)
    parts = array_parts(path)
    return read_arrays({role: [file] for role, file in parts.items()}, options) if parts else read_folder(path, options)
