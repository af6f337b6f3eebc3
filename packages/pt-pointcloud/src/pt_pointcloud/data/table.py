"""A CSV, TSV or Parquet table with a path and a class per row."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import DataError, nearest
from tqdm import tqdm

from pt_pointcloud.data.files import read_cloud
from pt_pointcloud.data.found import Found, Part, check_classes, listed, named, role_of
from pt_pointcloud.options import DataOptions

PATHS = ("path", "file", "filename", "cloud", "mesh")
LABELS = ("label", "class", "target", "category")


def read_table(path: Path, options: DataOptions) -> Found:
    """Paths are relative to the table; without a split column all rows are the training part.

    Raises:
        DataError: a missing column, an unknown split, or a file that cannot be read.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a readable table ({' '.join(str(error).split())[:120]})") from None
    columns = [str(name) for name in frame.columns]
    file_column = _column(columns, None, PATHS, "a column with the files", path)
    label_column = _column(columns, options.label_column, LABELS, "--label-column", path)
    split_column = options.split_column or ("split" if "split" in columns else None)
    if split_column is not None and split_column not in columns:
        raise DataError(
            f"{path} has no column {split_column!r}{nearest(split_column, columns)}; it has {listed(columns)} (--split-column)"
        )
    found = Found({})
    rows = frame.to_dict("records")
    for number, row in enumerate(tqdm(rows, desc="reading", unit="cloud", leave=False, delay=2), 2):
        split = "train" if split_column is None else str(row[split_column])
        role = role_of(split)
        if role is None:
            raise DataError(f"{path}: column {split_column!r} holds {split!r}; expected train, val or test")
        part = found.roles.setdefault(role, Part())
        name = named(row[file_column], f"{path}: row {number}, column {file_column!r}").strip()
        cloud, _ = read_cloud(path.parent / name, options.mesh_points, options.mesh_seed, name)
        part.clouds.append(cloud)
        part.ids.append(name)
        part.labels.append(named(row[label_column], f"{path}: row {number}, column {label_column!r}"))
    if not found.roles:
        raise DataError(f"{path} has no rows below its header")
    check_classes([label for part in found.roles.values() for label in part.labels], f"{path}, column {label_column!r}")
    return found


def _column(columns: list[str], given: str | None, usual: tuple[str, ...], flag: str, path: Path) -> str:
    if given is not None:
        if given not in columns:
            raise DataError(
                f"{path} has no column {given!r}{nearest(given, columns)}; it has {listed(columns)} ({flag})"
            )
        return given
    found = next((name for name in usual if name in columns), None)
    if found is None:
        raise DataError(f"{path} has none of the columns {listed(usual)}; it has {listed(columns)} ({flag})")
    return found
