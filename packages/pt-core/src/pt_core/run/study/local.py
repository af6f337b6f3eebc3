"""Where cells run: one after the other in this process, or in N processes on this machine."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType

from pt_core.run.declare.modality import Modality
from pt_core.run.study.cells import Cell
from pt_core.run.study.folder import Record, StudyFolder, record_of
from pt_core.run.study.work import Bench
from pt_core.run.study.worker import name_of, task

Done = Callable[[Cell, Record], None]
ATTEMPTS = 2
"""How often a cell is given to a process where the process dies of it."""
THREADS = "OMP_NUM_THREADS"


def in_process(
    bench: Bench, cells: Sequence[Cell], before: Mapping[str, Record], retry: bool, done: Done
) -> dict[str, Record]:
    """Run the cells in their order; name -> record."""
    records: dict[str, Record] = {}
    for cell in cells:
        records[cell.name] = bench.run(cell, before.get(cell.name), records, retry)
        done(cell, records[cell.name])
    return records


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    answers: queue.Queue[tuple[_Worker, str | None]]
    cell: Cell | None = None

    def __post_init__(self) -> None:
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        """Put the answers where the scheduler waits for them, and None behind the last."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.answers.put((self, line))
        self.answers.put((self, None))

    def give(self, cell: Cell, line: str) -> None:
        self.cell = cell
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: its answers end, which is told
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def close(self) -> int:
        """Exit status, behind the last checkpoint."""
        self.hang_up()
        status = self.process.wait()
        self.listener.join()
        return status


class Processes:
    """N processes, each with networks and data of its own. A cell is given away once the cells that it starts from have ended; one whose
    process dies goes to another, where it continues from its checkpoint.

    Threads: each process takes its share of the cores, unless OMP_NUM_THREADS says how many.
    """

    def __init__(self, modality: Modality, study: StudyFolder, jobs: int) -> None:
        self.modality, self.study, self.jobs = modality, study, jobs
        self.answers: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self.workers: list[_Worker] = []

    def run(self, cells: Sequence[Cell], before: Mapping[str, Record], retry: bool, done: Done) -> dict[str, Record]:
        records: dict[str, Record] = {}
        waiting = list(cells)
        attempts = dict.fromkeys((cell.name for cell in cells), 0)

        def end(cell: Cell, record: Record) -> None:
            records[cell.name] = record
            done(cell, record)

        with self._ended():
            while len(records) < len(cells):
                for cell in [cell for cell in waiting if all(name in records for _, name in cell.starts)]:
                    worker = self._free()
                    if worker is None:
                        break
                    waiting.remove(cell)
                    attempts[cell.name] += 1
                    starts = {name: records[name] for _, name in cell.starts}
                    worker.give(cell, task(cell, before.get(cell.name), starts, retry))
                worker, line = self.answers.get()
                at_work, worker.cell = worker.cell, None
                if line is not None and at_work is not None:
                    end(at_work, record_of(json.loads(line)))
                    continue
                self.workers.remove(worker)
                status = worker.close()
                if at_work is None:
                    continue
                if attempts[at_work.name] < ATTEMPTS:
                    waiting.insert(0, at_work)
                    continue
                end(at_work, self._lost(at_work, before.get(at_work.name), status))
        return records

    def _lost(self, cell: Cell, before: Record | None, status: int) -> Record:
        """The record of a cell of which processes die."""
        kept = next((one for one in self.study.records() if cell.settings in one.settings), before)
        record = kept or Record(self.study.free(cell.name), (cell.settings,))
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        message = f"its process died {ATTEMPTS} times ({how}; out of memory?)"
        record = replace(record, status="failed", message=message)
        self.study.write(record)
        return record

    def _free(self) -> _Worker | None:
        """A process without work, started if there may be one more."""
        for worker in self.workers:
            if worker.cell is None:
                return worker
        if len(self.workers) >= self.jobs:
            return None
        share = max(1, (os.cpu_count() or 1) // self.jobs)
        # This process may have found the package through a path that the new one would not look at.
        paths = os.pathsep.join(dict.fromkeys(path or os.getcwd() for path in sys.path))
        environment = {THREADS: str(share), **os.environ, "PYTHONPATH": paths}
        command = [sys.executable, "-m", "pt_core.run.study.worker", str(self.study.path), name_of(self.modality)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, env=environment, text=True, encoding="utf-8", start_new_session=True
        )
        worker = _Worker(process, self.answers)
        self.workers.append(worker)
        return worker

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """However the body ends, the processes stop behind a checkpoint, and are waited for."""

        def stop(signum: int, frame: FrameType | None) -> None:
            raise SystemExit(128 + signum)

        main = threading.current_thread() is threading.main_thread()
        kinds = (signal.SIGINT, signal.SIGTERM) if main else ()
        handlers = {kind: signal.signal(kind, stop) for kind in kinds}
        try:
            yield
        finally:
            for worker in self.workers:
                worker.hang_up()
            for worker in self.workers:
                worker.close()
            for kind, handler in handlers.items():
                signal.signal(kind, handler)
