"""One cell after the other in this process, over shared networks and data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pt_core.errors import UserError
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.spec import RunSpec
from pt_core.run.fit.execute import execute
from pt_core.run.fit.prepare import prepare
from pt_core.run.fit.shelf import Shelf
from pt_core.run.study.cells import Cell, content_key
from pt_core.run.study.folder import Record, StudyFolder

Say = Callable[[str], None]


class Bench:
    """What a process that runs cells holds: the study's folder, what was recorded before, and a shelf of networks and data."""

    def __init__(self, modality: Modality, study: StudyFolder, say: Say) -> None:
        self.modality, self.study, self.say = modality, study, say
        self.shelf = Shelf()
        self.known = {record.key: record for record in study.records() if record.key}

    def run(self, cell: Cell, before: Record | None, starts: Mapping[str, Record], retry: bool = False) -> Record:
        """Bring a cell to its end, unless it is there already; its record is on disk then.

        Args:
            before: what is recorded of these settings.
            starts: name of a cell that it starts from -> its record.
            retry: run it again if it failed before.

        Raises:
            Interrupted: a signal arrived; the run is continued from its checkpoint next time.
        """
        began = time.time()
        record = Record(before.folder if before else "", (cell.settings,), began=began)
        unfinished = [
            name for name in dict.fromkeys(name for _, name in cell.starts) if starts[name].status != "finished"
        ]
        key = ""
        try:
            if unfinished:
                raise UserError(f"it starts from {unfinished[0]}, which did not finish")
            spec = cell.started([(role, self.study.run(starts[name]).absolute()) for role, name in cell.starts])
            key = content_key(self.modality, spec, self.shelf)
        except Exception as error:
            folder = before.folder if before and not before.key else self.study.free(cell.name)
            return self._kept(replace(record, folder=folder, status="failed", message=told(error)))
        found = self.known.get(key)
        if found is not None:
            settings = tuple(dict.fromkeys((*found.settings, cell.settings)))
            record = replace(found, settings=settings, began=began)
            if found.status == "finished" or (found.status == "failed" and not retry):
                return self._kept(record)
        else:
            unread = before is not None and not before.key and not self.study.run(before).exists()
            folder = before.folder if before and unread else self.study.free(cell.name)
            record = replace(record, folder=folder, key=key)
        return self._through(spec, record)

    def _through(self, spec: RunSpec, record: Record) -> Record:
        self._kept(replace(record, status="running", message=""))
        out = self.study.run(record)
        try:
            execute(
                self.modality,
                prepare(self.modality, spec, self.say, shelf=self.shelf),
                out,
                self.say,
                resume=(out / "run.json").is_file(),
            )
            ended = replace(record, status="finished", message="")
        except SystemExit as stop:  # a signal, behind a checkpoint
            self._kept(replace(record, status="interrupted", message=str(getattr(stop, "message", stop))))
            raise
        except Exception as error:
            ended = replace(record, status="failed", message=told(error))
        return self._kept(replace(ended, seconds=round(time.time() - record.began, 3)))

    def _kept(self, record: Record) -> Record:
        self.study.write(record)
        if record.key:
            self.known[record.key] = record
        return record


def told(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")


def ordered(cells: Sequence[Cell], chosen: set[str]) -> list[Cell]:
    """The chosen cells and those that they start from, in the study's order."""
    wanted = set(chosen)
    for cell in reversed(cells):  # a cell comes after those that it starts from
        if cell.name in wanted:
            wanted |= {name for _, name in cell.starts}
    return [cell for cell in cells if cell.name in wanted]
