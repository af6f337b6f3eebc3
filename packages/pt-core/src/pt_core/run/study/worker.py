"""A process that runs cells for another one: `python -m pt_core.run.study.worker STUDY MODULE:CLASS`.

It reads one JSON task per line and answers with one JSON record per line. When nobody writes to it any more it stops as by a signal,
behind a checkpoint. What cells print goes to the error stream.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from pt_core.run.declare.modality import Modality
from pt_core.run.study.cells import Cell, plan
from pt_core.run.study.folder import Record, StudyFolder, record_of
from pt_core.run.study.work import Bench


def name_of(modality: Modality) -> str:
    """How another process finds a modality."""
    kind = type(modality)
    return f"{kind.__module__}:{kind.__qualname__}"


def task(cell: Cell, before: Record | None, starts: Mapping[str, Record], retry: bool) -> str:
    """A line for a worker."""
    others = {name: asdict(record) for name, record in starts.items()}
    return json.dumps(
        {"cell": cell.name, "before": asdict(before) if before else None, "starts": others, "retry": retry}
    )


def main(arguments: list[str]) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    folder, source = arguments
    module, _, name = source.partition(":")
    modality: Modality = getattr(importlib.import_module(module), name)()
    study = StudyFolder(Path(folder))
    cells = {cell.name: cell for cell in plan(modality, study.content())}
    bench = Bench(modality, study, lambda text: None)
    for line in iter(_tasks(sys.stdin).get, None):
        given: dict[str, Any] = json.loads(line)
        before = record_of(given["before"]) if given["before"] else None
        starts = {name: record_of(stored) for name, stored in given["starts"].items()}
        record = bench.run(cells[given["cell"]], before, starts, given["retry"])
        answers.write(json.dumps(asdict(record)) + "\n")
        answers.flush()


def _tasks(lines: TextIO) -> queue.Queue[str | None]:
    """The lines as they come, then None; their end stops a cell that is at work, which the trainer's handler does behind a step."""
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in lines:
            found.put(line)
        found.put(None)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
