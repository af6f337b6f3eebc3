"""What --data may name, and what is wrong with a name; nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pt_core.errors import UserError, nearest

BUILTIN_IMAGES = ("digits",)
BUILTIN_MASKS = ("streets", "streets_small")
TABLES = (".csv", ".tsv", ".parquet")
ARRAYS = ".npz"


def check_source(spec: str, builtin: Sequence[str] = (*BUILTIN_IMAGES, *BUILTIN_MASKS)) -> None:
    """Refuse a path that does not exist or is of no known kind, and an unknown built-in name.

    Args:
        builtin: the built-in data that may be named.

    Raises:
        UserError: names what is wrong, and the nearest name where there is one.
    """
    if spec.startswith("builtin:"):
        name = spec.removeprefix("builtin:")
        if name not in builtin:
            raise UserError(
                f"no built-in data {name!r}{nearest(name, ['digits', 'streets'])}; known: digits, streets (segmentation)"
            )
    elif not spec.startswith("hub:"):
        path = Path(spec)
        if not path.exists():
            raise UserError(
                f"--data {spec!r} does not exist; give a folder, a table ({', '.join(TABLES)}), .npz or hub:NAME"
            )
        if not path.is_dir() and path.suffix.lower() not in (*TABLES, ARRAYS):
            kinds = ", ".join((*TABLES, ARRAYS))
            raise UserError(f"--data {spec!r} is neither a folder nor a file of a known kind ({kinds})")
