"""What a `--data` names, found without reading anything: built-in text, data sets of the hub, files, and folders of them."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import DataError, unless_known

ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")
BUILTIN = ("words", "modules")
"""Built-in data from modules of the standard library that the built-in model never read: `words`, eight words around one of four nouns;
`modules`, sentences to be told apart by their module (hard for a tiny model)."""


def check_place(spec: str) -> None:
    """Refuse a path or name behind which nothing can be.

    Raises:
        DataError: as `check_builtin` and `part_files` say.
    """
    kind, _, name = spec.partition(":")
    if kind == "builtin":
        check_builtin(name)
    elif kind != "hub" and not is_saved(Path(spec)):
        part_files(Path(spec))


def check_builtin(name: str) -> None:
    """Refuse an unknown name of built-in text.

    Raises:
        DataError: lists the known ones.
    """
    unknown = unless_known("built-in data", name, BUILTIN)
    if unknown is not None:
        raise DataError(unknown)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of the `datasets` library wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def part_files(path: Path) -> dict[str, Path]:
    """Role -> file. A file is the training part; a folder may hold one file per part, named after it (`sst2_train.csv`).

    Raises:
        DataError: nothing there, a file of another kind, a folder without a training part or with two of one.
    """
    if not path.is_dir():
        check_file(path)
        return {"train": path}
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    parts: dict[str, Path] = {}
    for file in found:
        words = reversed(file.stem.lower().replace("-", "_").split("_"))
        role = next((ROLES[word] for word in words if word in ROLES), None)
        if role is not None:
            if role in parts:
                raise DataError(
                    f"folder {path} has two {role} files: {parts[role].name} and {file.name}; give one as --data {role}=FILE"
                )
            parts[role] = file
    if not parts and len(found) == 1:
        parts = {"train": found[0]}
    if "train" not in parts:
        raise DataError(f"folder {path} has no file that is named after the training part (such as train.csv)")
    return parts


def check_file(path: Path) -> None:
    """Refuse a file that is missing or of another kind.

    Raises:
        DataError: names what there may be.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; give a file ({', '.join(SUFFIXES)}), a folder, builtin:NAME or hub:NAME"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} is of no known kind; known: {', '.join(SUFFIXES)}")
