"""The thread that runs the model for many callers: a bounded queue in front of rows that decode together."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pt_core.errors import UserError

from pt_language.server.decoding import Rows
from pt_language.server.prompts import PromptServer
from pt_language.server.request import Request

log = logging.getLogger(__name__)


class Busy(UserError):
    """The queue is full."""


class Closing(UserError):
    """The server is shutting down and takes nothing new."""


@dataclass(eq=False)
class Job:
    """A request, and whom to tell that it is over: `done(error)` with None where it went well, called from the engine's thread."""

    request: Request
    done: Callable[[BaseException | None], None]


class Engine:
    """Runs jobs over a `PromptServer`; texts join the running rows between two steps.

    Attributes:
        running, waiting: how many requests there are.
    """

    def __init__(self, server: PromptServer) -> None:
        self.server = server
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._rows = Rows(server.backbone)
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="pt-language-engine", daemon=True)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, all or none.

        Raises:
            Busy: more than `limits.queue` would wait.
            Closing: after `close`.
        """
        with self._changed:
            if self._closing:
                raise Closing("the server is shutting down")
            if len(self._waiting) + len(jobs) > self.server.limits.queue:
                raise Busy(
                    f"{len(self._waiting)} requests are waiting, the limit is {self.server.limits.queue}; try again later"
                )
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self, timeout: float | None = None) -> bool:
        """Take nothing new, finish what was accepted, and stop. False where that took longer than `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._running:
                    if self._closing:
                        return
                    self._changed.wait()
                fresh: list[Job] = []
                while self._waiting and len(self._running) + len(fresh) < self.server.batch:
                    fresh.append(self._waiting.popleft())
                self._running += fresh
            self._admit([job for job in fresh if not job.request.cancelled])
            try:
                self.server.step(self._rows)
            except Exception as error:  # whatever the model raises ends the rows that ran, not the server
                log.exception("a decoding step failed")
                failed = set(map(id, self._rows.clear()))
                self._finish([job for job in self._running if id(job.request) in failed], error)
            self._finish(
                [job for job in self._running if job.request.reason is not None or job.request.cancelled], None
            )

    def _admit(self, fresh: Sequence[Job]) -> None:
        """Read new texts together; where that fails, one by one, so that only the one at fault fails."""
        if not fresh:
            return
        try:
            self.server.admit(self._rows, [job.request for job in fresh])
        except Exception as error:
            known = set(map(id, self._rows.requests))
            untouched = [job for job in fresh if id(job.request) not in known and job.request.reason is None]
            if len(fresh) == 1 or len(untouched) < len(fresh):
                log.exception("a text could not be read")
                self._finish(untouched, error)
                return
            for job in fresh:
                self._admit([job])

    def _finish(self, jobs: Sequence[Job], error: BaseException | None) -> None:
        for job in jobs:
            self._running.remove(job)
            job.done(error)
