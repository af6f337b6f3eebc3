"""Where windows come from: a file, a folder of files, or generated subjects. One module per file format gives `Domains`."""

from __future__ import annotations

from pathlib import Path

from pt_core.errors import DataError, unless_known

from pt_timeseries.data.domains import Domains, collect
from pt_timeseries.options import DataOptions

BUILTIN = ("motion", "twins")
FILES = (".npz", ".csv", ".parquet", ".ts")
ADATIME = "t*_*.pt"


def problem(spec: str) -> str | None:
    """What is wrong with a data spec, as far as its name and the file system tell; nothing is read."""
    if spec.startswith("builtin:"):
        return unless_known("built-in data", spec.removeprefix("builtin:"), BUILTIN)
    path = Path(spec)
    if not path.exists():
        return f"{spec} does not exist; give a .npz, .csv, .parquet or .ts file, a folder of them, or builtin:NAME"
    if path.is_dir():
        usable = any(path.glob(ADATIME)) or any(file.suffix in FILES for file in path.iterdir())
        return None if usable else _empty(path)
    if path.suffix not in FILES:
        return f"{path} is of no known format; give .npz, .csv, .parquet, .ts, or a folder of them"
    return None


def _empty(folder: Path) -> str:
    return f"folder {folder} holds no .npz, .csv, .parquet, .ts or AdaTime train_*.pt files"


def read(spec: str, options: DataOptions, seed: int) -> Domains:
    """Read what `spec` names.

    Raises:
        DataError: it names nothing that there is (see `problem`), or its content cannot be used; says why.
    """
    wrong = problem(spec)
    if wrong is not None:
        raise DataError(wrong)
    # Each reader is imported where it is used: `problem` must not wait for torch.
    if spec.startswith("builtin:"):
        from pt_timeseries.data.generate import builtin

        return builtin(spec.removeprefix("builtin:"), options.shift)
    path = Path(spec)
    return _read_folder(path, options) if path.is_dir() else _read_file(path, options, "")


def _read_file(path: Path, options: DataOptions, prefix: str) -> Domains:
    if path.suffix == ".npz":
        from pt_timeseries.data.arrays import read_npz

        return read_npz(path, options, prefix)
    if path.suffix == ".ts":
        from pt_timeseries.data.ts import read_ts

        return read_ts([path])
    from pt_timeseries.data.table import read_table

    return read_table(path, options, prefix)


def _read_folder(path: Path, options: DataOptions) -> Domains:
    """AdaTime's files, .ts files (a domain each), or tables and arrays whose domains get the file's name in front."""
    if any(path.glob(ADATIME)):
        from pt_timeseries.data.adatime import read_adatime

        return read_adatime(path, options)
    series = sorted(path.glob("*.ts"))
    if series:
        from pt_timeseries.data.ts import read_ts

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
        raise DataError(_empty(path))
    notes += [note for part in found for note in part.notes]
    return collect([domain for part in found for domain in part.items], str(path), notes=notes)
