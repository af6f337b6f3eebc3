"""A page in headless Chromium, driven over the DevTools pipe: what it logs, what it asks the network for, how wide it is."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0
"""Seconds to wait for an answer before the test fails."""

# Chromium reads commands from descriptor 3 and answers on 4; the small Python in between puts ours there.
_LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass(frozen=True)
class Opened:
    """What came of opening a page.

    Attributes:
        problems: console errors and warnings, script errors, and what the browser itself complains of.
        requests: addresses asked for, but for the page itself and `data:`.
        width: of the document's content in CSS pixels; more than the window's means that the page scrolls sideways.
        values: results of the scripts, in order.
        picture: PNG of the whole page.
    """

    problems: list[str]
    requests: list[str]
    width: int
    values: list[Any]
    picture: bytes


class Browser:
    """A headless Chromium without a network: every host name fails to resolve."""

    def __init__(self, profile: Path) -> None:
        path = find_browser()
        assert path is not None
        options = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        command = [sys.executable, "-c", _LAUNCH, str(read), str(write), path, *options, "about:blank"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=(read, write), stdin=quiet, stdout=quiet, stderr=quiet)
        os.close(read), os.close(write)
        self._buffer, self._number = b"", 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out), os.close(self._in)  # Chromium ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, page: Path, width: int, scripts: tuple[str, ...] = (), dark: bool = False) -> Opened:
        """Load a page in a fresh tab with a window `width` CSS pixels wide, then run the scripts in it."""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {}, session)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", size, session)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", {"features": theme}, session)
        self._events.clear()
        address = page.resolve().as_uri()
        self._call("Page.navigate", {"url": address}, session)
        self._await("Page.loadEventFired")
        values = [self._evaluate(script, session) for script in scripts]
        content = "document.documentElement.scrollWidth"
        found = int(self._evaluate(f"new Promise(done => requestAnimationFrame(() => done({content})))", session))
        shot = self._call("Page.captureScreenshot", {"captureBeyondViewport": True}, session)["data"]
        requests = [_url(event) for event in self._events if event["method"] == "Network.requestWillBeSent"]
        outside = [url for url in requests if url != address and not url.startswith("data:")]
        problems = [text for event in self._events if (text := _problem(event))]
        self._call("Target.closeTarget", {"targetId": target})
        return Opened(problems, outside, found, values, base64.b64decode(shot))

    def _evaluate(self, script: str, session: str) -> Any:
        parameters = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self._call("Runtime.evaluate", parameters, session)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def _call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._events.append(answer)

    def _await(self, method: str) -> None:
        while all(event["method"] != method for event in self._events):
            self._events.append(self._read())

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            assert part, "Chromium does not answer" if not ready else "Chromium ended"
            self._buffer += part
        first, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(first))


def _url(event: dict[str, Any]) -> str:
    return str(event["params"]["request"]["url"])


def _problem(event: dict[str, Any]) -> str:
    kind, given = event["method"], event.get("params", {})
    if kind == "Runtime.exceptionThrown":
        return f"script error: {given['exceptionDetails']}"
    if kind == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
        return f"console {given['type']}: {given['args']}"
    if kind == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
        return f"{given['entry']['level']}: {given['entry']['text']}"
    if kind == "Network.loadingFailed":
        return f"not loaded: {given['errorText']}"
    return ""
