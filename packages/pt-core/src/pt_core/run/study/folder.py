"""The folder of a study: its file, the runs of its cells, and a record beside each that says what became of it.

study.yaml        what was asked for, with absolute paths
cells/NAME/       a run folder like any other
cells/NAME.json   the record of that run
results.csv, results.parquet, study.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pt_core.errors import ArtifactError, UserError
from pt_core.run.study.cells import Cell
from pt_core.run.study.space import read_study
from pt_core.sealed import read_json, write_text

Status = Literal["waiting", "running", "interrupted", "finished", "failed"]
FILE = "study.yaml"


@dataclass(frozen=True)
class Record:
    """What became of a cell.

    Attributes:
        folder: name of its run folder below `cells/`.
        settings: digests of what was asked for (`Cell.settings`): more than one where other settings turned out to be the same content.
        key: digest of what the result depends on (`content_key`); empty where it could not be told.
        message: why it failed, in one line.
        seconds: wall time of the last attempt.
        began: when that was, in seconds since 1970.
    """

    folder: str
    settings: tuple[str, ...]
    key: str = ""
    status: Status = "waiting"
    message: str = ""
    seconds: float = 0.0
    began: float = 0.0


def record_of(stored: Mapping[str, Any]) -> Record:
    """A record as JSON holds it.

    Raises:
        KeyError, TypeError: it is none.
    """
    return Record(**{**stored, "settings": tuple(stored["settings"])})


class StudyFolder:
    """A study on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / "cells"

    def exists(self) -> bool:
        return (self.path / FILE).is_file()

    def content(self) -> dict[str, Any]:
        return read_study(self.path / FILE)

    def write_content(self, content: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        write_text(self.path / FILE, text)

    def run(self, record: Record) -> Path:
        return self.cells / record.folder

    def status(self, record: Record) -> dict[str, Any]:
        """run.json of a cell; empty where there is none."""
        path = self.run(record) / "run.json"
        return read_json(path) if path.is_file() else {}

    def records(self) -> list[Record]:
        """All records; a damaged one counts as missing, so that its cell runs again."""
        found: list[Record] = []
        for path in sorted(self.cells.glob("*.json")) if self.cells.is_dir() else ():
            try:
                found.append(record_of(read_json(path)))
            except (ArtifactError, KeyError, TypeError):
                continue
        return found

    def write(self, record: Record) -> None:
        self.cells.mkdir(parents=True, exist_ok=True)
        write_text(self.cells / f"{record.folder}.json", json.dumps(asdict(record), indent=1))

    def free(self, name: str) -> str:
        """A folder name that no other content has taken."""
        number = 1
        while True:
            folder = name if number == 1 else f"{name}-{number}"
            if not (self.cells / folder).exists() and not (self.cells / f"{folder}.json").exists():
                return folder
            number += 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only one process schedules a study at a time.

        Raises:
            UserError: another one does, or the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.path} is in use by another process; wait for it or choose another --out") from None
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror or error}; choose another --out") from None
        try:
            yield
        finally:
            lock.release()


def looked_up(cells: Sequence[Cell], records: Sequence[Record]) -> dict[str, Record]:
    """Cell name -> its newest record by what was asked for; cells that were never begun are missing. Whether the content is still the same
    is known only with the data at hand (`work.Bench`)."""
    newest: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.began):
        newest |= dict.fromkeys(record.settings, record)
    return {cell.name: newest[cell.settings] for cell in cells if cell.settings in newest}
