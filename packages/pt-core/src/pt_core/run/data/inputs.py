"""Files that `predict` is given."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path

from pt_core.errors import DataError


def input_files(item: str | Path, usable: Callable[[Path], bool], what: str) -> list[Path]:
    """A file, the usable files of a folder (searched to any depth), or those that a pattern such as `scans/*.ply` matches.

    Args:
        what: what a folder should hold, for the message.

    Raises:
        DataError: a folder without such files, or a pattern that matches none.
    """
    path = Path(item)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and usable(p))
        if not files:
            raise DataError(f"folder {path} holds no {what}")
        return files
    if not path.exists() and glob.has_magic(str(path)):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not files:
            raise DataError(f"no file matches {str(path)!r}")
        return files
    return [path]
