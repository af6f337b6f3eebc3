"""What --data may name, and what is wrong with a name; nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pt_core.errors import nearest

BUILTIN_IMAGES = ("digits",)
BUILTIN_MASKS = ("streets", "streets_small")
TABLES = (".csv", ".tsv", ".parquet")
ARRAYS = ".npz"
SPLITS = ".json"
"""CoOp's split files."""


def problem(spec: str, builtin: Sequence[str] = (*BUILTIN_IMAGES, *BUILTIN_MASKS)) -> str | None:
    """Why there are no data of this name: no such path, a file of no known kind, or an unknown built-in name.

    Args:
        builtin: the built-in data that may be named.
    """
    if spec.startswith("hub:"):
        return None
    if spec.startswith("builtin:"):
        name = spec.removeprefix("builtin:")
        if name in builtin:
            return None
        return f"no built-in data {name!r}{nearest(name, ['digits', 'streets'])}; known: digits, streets (segmentation)"
    path = Path(spec)
    if not path.exists():
        return f"--data {spec!r} does not exist; give a folder, a table ({', '.join(TABLES)}), .npz, a split file (.json) or hub:NAME"
    if not path.is_dir() and path.suffix.lower() not in (*TABLES, ARRAYS, SPLITS):
        kinds = ", ".join((*TABLES, ARRAYS, SPLITS))
        return f"--data {spec!r} is neither a folder nor a file of a known kind ({kinds})"
    return None
