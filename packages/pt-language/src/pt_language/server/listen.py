"""A socket with the server's HTTP face behind it."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import click
import uvicorn
from pt_core.errors import UserError

from pt_language.server.http import build_app
from pt_language.server.patience import patient
from pt_language.server.prompts import PromptServer


class _Announced(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, said: Sequence[str]) -> None:
        super().__init__(config)
        self.said = said

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            for text in self.said:
                click.echo(text, err=True)


def run_server(
    server: PromptServer, root: Path | None, host: str, port: int, grace: int, token: str | None = None
) -> None:
    """Listen until SIGTERM or Ctrl-C; what was accepted is finished.

    Raises:
        UserError: the address cannot be used.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise UserError(f"cannot listen on {host}:{port} ({reason}); choose another --host or --port") from None
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    name = server.names[0] if len(server) else server.backbone.source
    head = "" if token is None else " -H 'authorization: Bearer TOKEN'"
    body = json.dumps({"model": name, "prompt": "..."})
    said = (
        f"serving {len(server)} prompts over {server.backbone.source} on {address}",
        f"next: curl {address}/v1/completions -H 'content-type: application/json'{head} -d '{body}'",
    )
    # uvicorn raises the signal that stopped it once more when it is done; by then all is finished and well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Announced(configured(server, root, token, grace), said).run(sockets=[listener])
    click.echo("stopped", err=True)


def configured(server: PromptServer, root: Path | None, token: str | None, grace: int) -> uvicorn.Config:
    """How uvicorn serves it: within the limits of connections and of waiting for what they send."""
    return uvicorn.Config(
        build_app(server, root, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        http=patient(server.limits.seconds),
        limit_concurrency=server.limits.connections + 1,  # uvicorn refuses from this one on
        timeout_graceful_shutdown=grace,
    )
