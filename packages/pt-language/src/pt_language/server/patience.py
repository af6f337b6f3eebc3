"""How long a connection may stay open without a request: uvicorn itself waits for ever for the rest of a head, or of a body that was
answered already."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def patient(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, closing connections on which no whole head comes within `seconds` of their first byte, or of being opened."""

    class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._answering():
                self._stop()
            elif self.deadline is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self.deadline = self.loop.call_later(seconds, self._end)

        def _stop(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def _end(self) -> None:
            self.deadline = None
            if not self._answering() and not self.transport.is_closing():
                self.transport.close()

    return Patient
