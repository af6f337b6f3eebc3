"""Image folders with one subfolder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pt_core.errors import DataError

from pt_vision.data.images import is_clutter
from pt_vision.data.parts import ROLES, Found, Part, listed


def read_folder(path: Path, wanted: Sequence[str]) -> Found:
    """`DIR/train/CLASS/...` with val and test beside train, or undivided `DIR/CLASS/...`.

    A folder counts as divided where one called train or test holds class folders itself, so a class may be named so.
    """
    if wanted:
        raise DataError(f"{path} is a folder and has no columns; leave out --where and --group-column, or give a table")
    found = Found({})
    folders = {role: [p for p in _folders(path) if p.name.lower() in names] for role, names in ROLES.items()}
    divided = any(_folders(p) for role in ("train", "test") for p in folders[role])
    if divided:
        named = [p for group in folders.values() for p in group]
        other = [p.name for p in _folders(path) if p not in named]
        if other:
            found.notes.append(f"{path} has train, val or test folders; not used: {listed(other)}")
    else:
        folders = {"train": [path]}
    ignored = 0
    for role, parts in folders.items():
        if len(parts) > 1:
            raise DataError(f"{path} has {' and '.join(p.name for p in parts)} for the {role} part; keep one")
        for part in parts:
            rows, clutter = _class_folders(part, path)
            found.parts[role] = rows
            ignored += clutter
    if ignored:
        found.notes.append(f"{ignored} hidden or system files in {path} are ignored")
    return found


def _class_folders(part: Path, root: Path) -> tuple[Part, int]:
    folders = _folders(part)
    if not folders:
        raise DataError(f"{part} has no class folders; expected {part / 'CLASS' / 'IMAGE'}")
    files: list[Path] = []
    labels: list[str] = []
    ignored = 0
    for folder in folders:
        inside = [p for p in folder.rglob("*") if p.is_file()]
        images = sorted((p for p in inside if not is_clutter(p, folder)), key=lambda p: p.as_posix())
        if not images:
            raise DataError(f"class folder {folder} holds no image; remove it or add images")
        ignored += len(inside) - len(images)
        files += images
        labels += [folder.name] * len(images)
    return Part(files, [p.relative_to(root).as_posix() for p in files], labels), ignored


def _folders(path: Path) -> list[Path]:
    return sorted((p for p in path.iterdir() if p.is_dir() and not is_clutter(p, path)), key=lambda p: p.name)
