"""Records as a CSV, JSONL or Parquet file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pt_core.errors import UserError
from pt_core.sealed import write_text


def check_table(path: Path) -> None:
    """Refuse a file that `write_table` could not write: before the work, not behind it.

    Raises:
        UserError: an unknown suffix, a folder, or a file in the place of a folder.
    """
    if path.suffix not in (".csv", ".jsonl", ".parquet"):
        raise UserError(f"--out {path} must end in .csv, .jsonl or .parquet")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; name a file")
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                raise UserError(f"--out {path}: {folder} is a file, not a folder")
            return


def write_files(folder: Path, sample_id: str, files: Mapping[str, bytes]) -> None:
    """Write the files that a prediction is, below `folder`/ID; an id that is a path stays one name.

    Raises:
        UserError: the disk is full or not writable.
    """
    home = folder / quote(sample_id, safe=" ")
    try:
        for name, content in files.items():
            home.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(content)
    except OSError as error:
        raise UserError(
            f"cannot write to {home}: {error.strerror or error}; free space or choose another --out"
        ) from None


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write records as .csv, .jsonl or .parquet (by the suffix), atomically for the text forms."""
    check_table(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        from pt_core.run.data.columns import arrow_table

        plain = [{k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in row.items()} for row in rows]
        parquet.write_table(arrow_table(plain), path)
    elif path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        buffer = io.StringIO()
        names = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(buffer, names)
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, buffer.getvalue())
