"""Published lists of what is for training, validation and test, beside the files (ModelNet's `modelnet40_train.txt`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pt_core.errors import DataError, nearest

from pt_pointcloud.data.found import ROLES, listed, role_of

PATTERN = re.compile(r"(?:(?P<name>.+)_)?(?P<role>[A-Za-z]+)\.txt")
Roles = dict[str, list[str]]


def split_lists(folder: Path, variant: str | None) -> tuple[Roles, str] | None:
    """(role -> entries, a note on which lists), from text files with a training and a test list; None where there are none.

    Args:
        variant: the lists' name where there are several (`modelnet10`); the default is the longest.

    Raises:
        DataError: no lists of that name.
    """
    found: dict[str, Roles] = {}
    for path in sorted(folder.glob("*.txt")):
        match = PATTERN.fullmatch(path.name)
        role = role_of(match["role"]) if match else None
        if match is not None and role is not None:
            lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
            found.setdefault(match["name"] or "", {})[role] = [line for line in lines if line]
    found = {name: roles for name, roles in found.items() if {"train", "test"} <= set(roles)}
    if not found:
        return None
    name = variant or max(found, key=lambda name: (sum(map(len, found[name].values())), name))
    if name not in found:
        raise DataError(
            f"{folder} has no lists {name!r}{nearest(name, found)}; it has {listed(sorted(found))} (--variant)"
        )
    others = sorted(set(found) - {name})
    note = f"divided as its lists {name + '_' if name else ''}train.txt and test.txt say"
    ordered = {role: found[name][role] for role in ROLES if role in found[name]}
    return ordered, note + (f" (others: --variant {' or '.join(others)})" if others else "")


def placed(
    files: Sequence[tuple[str, str]], roles: Mapping[str, Sequence[str]], where: str
) -> tuple[dict[str, list[int]], int]:
    """(role -> positions of files, how many are in no list). An entry is a path within the folder, with or without its ending, or a name.

    Args:
        files: (path within the folder, class) of every file.

    Raises:
        DataError: an entry without a file, or a file in two lists.
    """
    known: dict[str, list[int]] = {}
    for number, (path, label) in enumerate(files):
        pure = PurePosixPath(path)
        for name in {path, str(pure.with_suffix("")), pure.stem, pure.name, f"{label}/{pure.stem}"}:
            known.setdefault(name, []).append(number)
    owner: dict[int, str] = {}
    result: dict[str, list[int]] = {}
    for role, lines in roles.items():
        entries = [
            line if line in known else line.split()[0] for line in lines
        ]  # some lists have the class behind the file
        lost = [entry for entry in entries if len(known.get(entry, ())) != 1]
        if lost:
            why = "no file" if not known.get(lost[0]) else "several files"
            raise DataError(f"{where}: {len(lost)} entries of the {role} list have {why}, such as {lost[0]!r}")
        result[role] = [known[entry][0] for entry in entries]
        for number in result[role]:
            if owner.setdefault(number, role) != role:
                raise DataError(f"{where}: {files[number][0]!r} is in the {owner[number]} and the {role} list")
    return result, len(files) - len(owner)
