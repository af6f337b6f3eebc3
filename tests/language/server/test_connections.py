"""Connections over real sockets: how many there may be, and how long each may take to send what it has to say."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from pt_language.server import Limits, PromptServer
from pt_language.server.listen import configured

from tests.language import tiny

SECONDS, MOST = 0.8, 3
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 40\r\n"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[PromptServer, int]]:
    server = PromptServer(tiny.backbone(), Limits(seconds=SECONDS, connections=MOST))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    running = uvicorn.Server(configured(server, None, None, 5))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield server, listener.getsockname()[1]
    running.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@contextlib.contextmanager
def opened(port: int, *sent: bytes) -> Iterator[list[socket.socket]]:
    """Connections that sent something and wait."""
    with contextlib.ExitStack() as stack:
        found = []
        for content in sent:
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)))
            found[-1].sendall(content)
        yield found


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


def status(port: int) -> int:
    return httpx.get(f"http://127.0.0.1:{port}/healthz", headers={"connection": "close"}, timeout=20).status_code


def until(port: int, wanted: int) -> None:
    """Closed connections are counted out at the server's next turn."""
    deadline = time.monotonic() + 20
    while status(port) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_half_sent_bodies_are_closed_and_capped(served: tuple[PromptServer, int]) -> None:
    _, port = served
    until(port, 200)
    half = HEAD + b'\r\n{"prompt": '
    with opened(port, *[half] * (MOST - 1)):
        assert status(port) == 200, f"{MOST} connections are allowed"
    until(port, 200)
    with opened(port, *[half] * MOST) as waiting:
        assert status(port) == 503, "one more is not"
        for connection in waiting:
            answer = rest(connection)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"the body was not sent within 0.8 seconds" in answer
        until(port, 200)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /heal",
        HEAD,
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET /heal",  # the second of two on one connection
        HEAD.replace(b"application/json", b"text/plain") + b"\r\nhalf",  # answered before it was sent
    ],
)
def test_half_sent_heads_are_closed(sent: bytes, served: tuple[PromptServer, int]) -> None:
    _, port = served
    until(port, 200)
    with opened(port, sent) as (connection,):
        start = time.monotonic()
        answer = rest(connection)
        assert time.monotonic() - start < 10 * SECONDS + 5
    for text, code in ((b"GET /healthz", b"200"), (b"text/plain", b"415")):
        if text in sent:
            assert answer.startswith(b"HTTP/1.1 " + code)
    until(port, 200)


def test_a_long_answer_is_not_cut(served: tuple[PromptServer, int], monkeypatch: pytest.MonkeyPatch) -> None:
    server, port = served
    until(port, 200)
    step = server.step

    def slow(rows: Any) -> None:
        time.sleep(SECONDS / 2)
        step(rows)

    monkeypatch.setattr(server, "step", slow)
    body = {"prompt": "abc", "max_tokens": 6, "temperature": 0}
    start = time.monotonic()
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60)
    assert time.monotonic() - start > 2 * SECONDS
    monkeypatch.undo()
    (expected,) = server.complete(["abc"], [None], 6)
    assert answer.json()["choices"][0]["text"] == expected.text
