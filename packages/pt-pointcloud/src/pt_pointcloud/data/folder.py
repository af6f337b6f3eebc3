"""Folders with one subfolder of clouds or meshes per class."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import DataError
from tqdm import tqdm

from pt_pointcloud.data.files import is_cloud, read_cloud
from pt_pointcloud.data.found import Found, Part, listed, role_of
from pt_pointcloud.data.lists import placed, split_lists
from pt_pointcloud.options import DataOptions


def read_folder(path: Path, options: DataOptions) -> Found:
    """`DIR/train/CLASS/...` with val and test beside train, `DIR/CLASS/{train,test}/...` (ModelNet), `DIR/CLASS/...` with lists beside
    (`modelnet40_train.txt` and `_test.txt`), or undivided.

    Raises:
        DataError: no class folders, or files that cannot be read; all of them are listed.
    """
    found = Found({})
    files: dict[str, list[tuple[Path, str]]] = {}
    divided = [p for p in _folders(path) if role_of(p.name) and _folders(p)]
    if divided:
        other = [p.name for p in _folders(path) if p not in divided]
        if other:
            found.notes.append(f"{path} has train, val or test folders; not used: {listed(other)}")
        for part in divided:
            files.setdefault(role_of(part.name) or "", []).extend(_class_files(part))
    else:
        every = _class_files(path)
        lists = split_lists(path, options.variant)
        if lists is not None:
            roles, note = lists
            rows, unlisted = placed(
                [(file.relative_to(path).as_posix(), label) for file, label in every], roles, str(path)
            )
            found.notes.append(note + (f"; {unlisted} files are in no list and are not used" if unlisted else ""))
            files = {role: [every[row] for row in chosen] for role, chosen in rows.items()}
            every = []
        for file, label in every:
            inner = role_of(file.relative_to(path / label).parts[0])
            files.setdefault(inner or "train", []).append((file, label))
    column = _column(options.part_column)
    bad: list[str] = []
    for role, members in files.items():
        found.roles[role] = part_ = Part()
        parts = []
        for file, label in tqdm(members, desc=f"reading {role}", unit="cloud", leave=False, delay=2):
            name = file.relative_to(path).as_posix()
            try:
                cloud, own = read_cloud(file, options.mesh_points, options.mesh_seed, name, column)
            except DataError as error:
                bad.append(str(error))
                continue
            part_.clouds.append(cloud)
            part_.ids.append(name)
            part_.labels.append(label)
            parts.append(own)
        if column is not None and all(own is not None for own in parts):
            part_.parts = [own for own in parts if own is not None]
        elif column is not None and not bad:
            raise DataError(
                f"{path}: --part-column {column} needs text or array files; meshes have no parts of their points"
            )
    if bad:
        raise DataError(
            f"{len(bad)} files of {path} cannot be used: {'; '.join(bad[:4])}{' ...' if len(bad) > 4 else ''}"
        )
    return found


def _column(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return int(name)
    except ValueError:
        raise DataError(
            f"--part-column {name!r}: a folder of files takes the number of a column, such as 6 or -1"
        ) from None


def _class_files(part: Path) -> list[tuple[Path, str]]:
    folders = _folders(part)
    if not folders:
        raise DataError(
            f"{part} has no class folders; expected {part / 'CLASS' / 'FILE'} with .off, .obj, .ply, .stl, .npy, .npz, .txt, .pcd, .las"
        )
    rows = []
    for folder in folders:
        inside = sorted((p for p in folder.rglob("*") if p.is_file() and is_cloud(p)), key=lambda p: p.as_posix())
        if not inside:
            raise DataError(f"class folder {folder} holds no cloud or mesh; remove it or add files")
        rows += [(file, folder.name) for file in inside]
    return rows


def _folders(path: Path) -> list[Path]:
    return sorted((p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))), key=lambda p: p.name)
