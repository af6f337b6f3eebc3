"""Where windows come from: a file, a folder of files, or generated subjects. One module per file format gives `Domains`."""

from __future__ import annotations

import re
from pathlib import Path

from pt_core.errors import DataError, unless_known

from pt_timeseries.data.domains import Domains, collect
from pt_timeseries.options import DataOptions

BUILTIN = ("motion", "twins")
FILES = (".npz", ".csv", ".tsv", ".parquet", ".ts", ".arff", ".txt")
ADATIME = "t*_*.pt"
DIMENSION = re.compile(r"Dimension\d+_(TRAIN|TEST)$", re.IGNORECASE)
"""Files of single channels, which stand beside the whole data set in the UEA archive."""
HALF = re.compile(r"_(TRAIN|TEST)$", re.IGNORECASE)
"""Ends of names that make text in a folder a data set, not a description of one."""


def problem(spec: str) -> str | None:
    """What is wrong with a data spec, as far as its name and the file system tell; nothing is read."""
    if spec.startswith("builtin:"):
        return unless_known("built-in data", spec.removeprefix("builtin:"), BUILTIN)
    path = Path(spec)
    if not path.exists():
        return f"{spec} does not exist; give a .npz, .csv, .tsv, .parquet, .ts, .arff or .txt file, a folder of them, or builtin:NAME"
    if path.is_dir():
        usable = any(path.glob(ADATIME)) or any(
            file.suffix in FILES and (file.suffix != ".txt" or HALF.search(file.stem)) for file in path.iterdir()
        )
        return None if usable else _empty(path)
    if path.suffix not in FILES:
        return f"{path} is of no known format; give .npz, .csv, .tsv, .parquet, .ts, .arff, .txt, or a folder of them"
    return None


def _empty(folder: Path) -> str:
    return (
        f"folder {folder} holds no .npz, .csv, .tsv, .parquet, .ts, .arff, NAME_TRAIN.txt or AdaTime train_*.pt files"
    )


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
    found = _pairs([path], options)
    if found is not None:
        return found
    if path.suffix == ".npz":
        from pt_timeseries.data.arrays import read_npz

        return read_npz(path, options, prefix)
    from pt_timeseries.data.table import read_table

    return read_table(path, options, prefix)


def _pairs(files: list[Path], options: DataOptions) -> Domains | None:
    """The files of archives that divide a data set in two; None for files of another kind."""
    from pt_timeseries.data.paired import read_pairs

    if files[0].suffix == ".ts":
        from pt_timeseries.data.ts import load_ts

        return read_pairs(files, load_ts, options)
    if files[0].suffix == ".arff":
        from pt_timeseries.data.arff import load_arff

        return read_pairs(files, load_arff, options)
    if files[0].suffix in (".tsv", ".txt"):
        from pt_timeseries.data.ucr import check_text, is_ucr, load_ucr

        if files[0].suffix == ".txt":
            check_text(files[0])
        return read_pairs(files, load_ucr, options) if is_ucr(files[0]) else None
    return None


def _read_folder(path: Path, options: DataOptions) -> Domains:
    """AdaTime's files, files of archives (a domain each), or tables and arrays whose domains get the file's name in front."""
    if any(path.glob(ADATIME)):
        from pt_timeseries.data.adatime import read_adatime

        return read_adatime(path, options)
    for kind in ("*.ts", "*.arff", "*.tsv", "*.txt"):
        series = [file for file in sorted(path.glob(kind)) if not DIMENSION.search(file.stem)]
        if kind == "*.txt":
            series = [file for file in series if HALF.search(file.stem)]
        read = _pairs(series, options) if series else None
        if read is not None:
            return read
    files = sorted(file for kind in ("*.npz", "*.csv", "*.tsv", "*.parquet") for file in path.glob(kind))
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
        raise DataError(f"no file of {path} can be read: {notes[0]}" if notes else _empty(path))
    notes += [note for part in found for note in part.notes]
    items = [domain for part in found for domain in part.items]
    return collect(items, str(path), notes=notes, options=options)
