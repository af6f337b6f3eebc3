"""Published folders of .h5 arrays with their divisions: ModelNet40 and ShapeNetPart (`ply_data_train0.h5` ...), ScanObjectNN."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pt_core.errors import DataError, nearest

from pt_pointcloud.data.found import listed, role_of

NUMBERED = re.compile(r"ply_data_(train|val|test)_?(\d+)\.h5")
LISTS = ("{role}_files.txt", "{role}_hdf5_file_list.txt")
SCAN = re.compile(r"(training|test)_objectdataset(?:_(.+))?\.h5")
SCAN_FOLDERS = re.compile(r"main_split(_nobg)?|split\d+(_nobg)?")
SCAN_NAMES = {None: "OBJ_BG", "augmented25_norot": "PB_T25", "augmented25rot": "PB_T25_R", "augmentedrot": "PB_T50_R",
              "augmentedrot_scale75": "PB_T50_RS"}  # fmt: skip
"""What the paper calls a file's variant."""
SCAN_CLASSES = ("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow", "sink", "sofa",
                "toilet")  # fmt: skip
PARTS = "overallid_to_catid_partid.json"


@dataclass
class Arrays:
    """Files of a published set.

    Attributes:
        files: role -> files, in order.
        classes: names by number, where they are known.
        part_names: names of parts by number, where they are known.
        notes: what the user is told.
    """

    files: dict[str, list[Path]]
    classes: list[str] | None = None
    part_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def published_arrays(folder: Path, variant: str | None) -> Arrays | None:
    """The files of a folder in one of the published layouts; None for another folder.

    Raises:
        DataError: a listed file is missing, or the folder has several variants and none (or an unknown one) is named.
    """
    return _numbered(folder) or _scan_object_nn(folder, variant)


def _numbered(folder: Path) -> Arrays | None:
    numbered: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.iterdir():
        match = NUMBERED.fullmatch(path.name)
        if match:
            numbered.setdefault(match[1], []).append((int(match[2]), path))
    if not numbered:
        return None
    files: dict[str, list[Path]] = {
        role: [path for _, path in sorted(numbered[role])] for role in ("train", "val", "test") if role in numbered
    }
    for role in ("train", "val", "test"):
        place = next(
            (folder / name.format(role=role) for name in LISTS if (folder / name.format(role=role)).is_file()), None
        )
        if place is None:
            continue
        entries = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
        files[role] = [folder / PurePosixPath(entry).name for entry in entries]
        lost = [path.name for path in files[role] if not path.is_file()]
        if lost:
            raise DataError(f"{folder} lacks {listed(lost)}, which {place.name} names")
    classes = _lines(folder / "shape_names.txt") or [
        line.split()[0] for line in _lines(folder / "all_object_categories.txt") or ()
    ]
    return Arrays(files, classes or None, _parts(folder), [f"divided as its files {', '.join(files)} are"])


def _lines(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _parts(folder: Path) -> list[str] | None:
    """CATEGORY/NUMBER of every part of ShapeNetPart's arrays."""
    lines = [line.split() for line in _lines(folder / "all_object_categories.txt") or ()]
    categories = {line[-1]: line[0] for line in lines}
    if not (folder / PARTS).is_file() or not categories:
        return None
    try:
        pairs = json.loads((folder / PARTS).read_text(encoding="utf-8"))
        return [f"{categories.get(str(number), number)}/{part}" for number, part in pairs]
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / PARTS} is no list of pairs ({' '.join(str(error).split())[:80]})") from None


def _scan_object_nn(folder: Path, variant: str | None) -> Arrays | None:
    """A folder main_split or main_split_nobg, or the one that holds them."""
    places = [folder, *sorted(p for p in folder.iterdir() if p.is_dir() and SCAN_FOLDERS.fullmatch(p.name))]
    found: dict[str, dict[str, list[Path]]] = {}
    for place in places:
        bare = place.name.endswith("_nobg")
        for path in sorted(place.glob("*_objectdataset*.h5")):
            match = SCAN.fullmatch(path.name)
            if match is None:
                continue
            name = SCAN_NAMES.get(match[2], match[2])
            name = ("OBJ_ONLY" if name == "OBJ_BG" else f"{name}_nobg") if bare else name
            name = f"{place.name}/{name}" if place != folder and place.name.startswith("split") else name
            found.setdefault(name, {})[role_of(match[1]) or ""] = [path]
    whole = {name: roles for name, roles in found.items() if {"train", "test"} <= set(roles)}
    if not found:
        return None
    if not whole:
        raise DataError(
            f"{folder}: ScanObjectNN needs a training_ and a test_ file of the same variant; it has {listed(sorted(found))}"
        )
    if variant is None and len(whole) > 1:
        raise DataError(f"{folder} holds {len(whole)} variants; choose one with --variant: {', '.join(sorted(whole))}")
    name = variant or next(iter(whole))
    if name not in whole:
        raise DataError(
            f"{folder} has no variant {name!r}{nearest(name, whole)}; it has {listed(sorted(whole))} (--variant)"
        )
    files = {role: whole[name][role] for role in ("train", "test")}
    return Arrays(files, list(SCAN_CLASSES), None, [f"ScanObjectNN {name}, divided as published"])
