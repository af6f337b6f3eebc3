"""Readers: one module per file format, each giving `Domains`. What is no file format (scenarios, statistics) is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pt_core.errors import DataError, nearest

from pt_timeseries.domains import Domains

if TYPE_CHECKING:
    from pt_timeseries.data import DataOptions

BUILTIN = ("motion", "twins")


def read(spec: str, options: DataOptions, seed: int) -> Domains:
    """Read a file, a folder of files, or `builtin:NAME`.

    Raises:
        DataError: it does not exist, is of no known format, or its content cannot be used; says why.
    """
    if spec.startswith("builtin:"):
        from pt_timeseries.generate import builtin

        name = spec.removeprefix("builtin:")
        if name not in BUILTIN:
            raise DataError(f"no built-in data {name!r}{nearest(name, BUILTIN)}; known: {', '.join(BUILTIN)}")
        return builtin(name, options.shift)
    path = Path(spec)
    if not path.exists():
        raise DataError(
            f"{spec} does not exist; give a .npz, .csv, .parquet or .ts file, a folder of them, or builtin:NAME"
        )
    if path.is_dir():
        return _read_folder(path, options)
    return _read_file(path, options, "")


def _read_file(path: Path, options: DataOptions, prefix: str) -> Domains:
    if path.suffix == ".npz":
        from pt_timeseries.sources.arrays import read_npz

        return read_npz(path, options, prefix)
    if path.suffix in (".csv", ".parquet"):
        from pt_timeseries.sources.table import read_table

        return read_table(path, options, prefix)
    if path.suffix == ".ts":
        from pt_timeseries.sources.ts import read_ts

        return read_ts([path])
    raise DataError(f"{path} is of no known format; give .npz, .csv, .parquet, .ts, or a folder of them")


def _read_folder(path: Path, options: DataOptions) -> Domains:
    """AdaTime's files, .ts files (a domain each), or tables and arrays whose domains get the file's name in front."""
    from pt_timeseries.domains import collect

    saved = sorted(path.glob("t*_*.pt"))
    if saved:
        from pt_timeseries.sources.adatime import read_adatime

        return read_adatime(path, options)
    series = sorted(path.glob("*.ts"))
    if series:
        from pt_timeseries.sources.ts import read_ts

        return read_ts(series)
    files = sorted(file for kind in ("*.npz", "*.csv", "*.parquet") for file in path.glob(kind))
    found: list[Domains] = []
    notes: list[str] = []
    for file in files:
        try:
            found.append(_read_file(file, options, f"{file.stem}:"))
        except DataError as error:
            if not options.skip_files:
                raise DataError(f"{error}; leave such files out with --skip-files") from None
            notes.append(f"{file.name} is left out: {error}")
    if not found:
        raise DataError(f"folder {path} holds no .npz, .csv, .parquet, .ts or AdaTime train_*.pt files")
    notes += [note for part in found for note in part.notes]
    return collect([domain for part in found for domain in part.items], str(path), notes=notes)
