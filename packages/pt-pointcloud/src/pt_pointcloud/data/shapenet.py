"""ShapeNetPart as it is published: a folder per category, named by WordNet number, with a division into lists of shapes."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
from pt_core.errors import DataError
from tqdm import tqdm

from pt_pointcloud.data.files import read_cloud
from pt_pointcloud.data.found import Found, Part

CATEGORIES = "synsetoffset2category.txt"
LISTS = "train_test_split"


def is_shapenet(path: Path) -> bool:
    return (path / CATEGORIES).is_file() and (path / LISTS).is_dir()


def read_shapenet(path: Path) -> Found:
    """Clouds with a part per point: `NUMBER/SHAPE.txt` (x y z, normals, part) or `NUMBER/points/SHAPE.pts` with `points_label/SHAPE.seg`.

    Parts of the first form count over all categories, those of the second start at 1 in each.

    Raises:
        DataError: lists or files that are missing or do not fit together.
    """
    folders = _categories(path / CATEGORIES)
    names = {number: name for name, number in folders.items()}
    found = Found({}, classes=list(folders), notes=["divided as its train_test_split says"])
    rows: list[tuple[Part, str, list[np.ndarray]]] = []
    for role in ("train", "val", "test"):
        entries = _entries(path / LISTS / f"shuffled_{role}_file_list.json")
        part = found.roles[role] = Part()
        own: list[np.ndarray] = []
        for entry in tqdm(entries, desc=f"reading {role}", unit="cloud", leave=False, delay=2):
            number, shape = PurePosixPath(entry).parts[-2:]
            if number not in names:
                raise DataError(
                    f"{path}: list entry {entry!r} is of category {number}, which {CATEGORIES} does not name"
                )
            cloud, parts = _shape(path / number, shape)
            part.clouds.append(cloud)
            part.ids.append(f"{number}/{shape}")
            part.labels.append(names[number])
            own.append(parts)
        rows.append((part, role, own))
    if not any(part.clouds for part in found.roles.values()):
        raise DataError(f"the lists in {path / LISTS} are empty")
    _number_parts(found, [(part, own) for part, _, own in rows], (path / next(iter(names)) / "points").is_dir())
    found.roles = {role: part for role, part in found.roles.items() if part.clouds}
    return found


def _categories(path: Path) -> dict[str, str]:
    pairs = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{path} must have a category and its number in every line")
    return {pair[0]: pair[1] for pair in pairs}


def _entries(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable list ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(found, list) or not all(isinstance(entry, str) and entry.count("/") for entry in found):
        raise DataError(f"{path} must be a list of shape_data/NUMBER/SHAPE")
    return found


def _shape(folder: Path, shape: str) -> tuple[np.ndarray, np.ndarray]:
    whole = folder / f"{shape}.txt"
    name = f"{folder.name}/{shape}"
    if whole.is_file():
        cloud, parts = read_cloud(whole, 1, 0, name, -1)
        assert parts is not None
        return cloud, parts
    cloud, _ = read_cloud(folder / "points" / f"{shape}.pts", 1, 0, name)
    label = folder / "points_label" / f"{shape}.seg"
    try:
        parts = np.loadtxt(label, dtype=np.int64, ndmin=1)
    except (OSError, ValueError) as error:
        raise DataError(f"parts of {name!r} cannot be read ({' '.join(str(error).split())[:100]})") from None
    if parts.shape != (len(cloud),) or parts.min() < 1:
        raise DataError(f"{label} has {parts.shape} parts for {len(cloud)} points; expected one from 1 up per point")
    return cloud, parts - 1


def _number_parts(found: Found, rows: list[tuple[Part, list[np.ndarray]]], local: bool) -> None:
    """Give every part one number over all categories, and the name CATEGORY/NUMBER."""
    highest: dict[str, int] = {}
    lowest: dict[str, int] = {}
    for part, own in rows:
        for label, parts in zip(part.labels, own, strict=True):
            highest[label] = max(highest.get(label, 0), int(parts.max()))
            lowest[label] = min(lowest.get(label, int(parts.min())), int(parts.min()))
    starts, total = dict.fromkeys(highest, 0), 0
    for name in found.classes or ():
        if local and name in highest:
            starts[name], total = total, total + highest[name] + 1
    names: dict[int, str] = {}
    for name in highest:
        first = 0 if local else lowest[name]
        for number in range(first, highest[name] + 1):
            names.setdefault(starts[name] + number, f"{name}/{number - first}")
    found.part_names = [names.get(number, str(number)) for number in range(max(names) + 1)]
    for part, own in rows:
        part.parts = [parts + starts[label] for label, parts in zip(part.labels, own, strict=True)]
