"""A socket with the server's HTTP face behind it."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import click
import uvicorn
from pt_core.errors import UserError

from pt_language.server.http import build_app
from pt_language.server.prompts import PromptServer


def run_server(server: PromptServer, root: Path | None, host: str, port: int, grace: int) -> None:
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
    click.echo(f"serving {len(server)} prompts over {server.backbone.source} on {address}", err=True)
    name = server.names[0] if len(server) else "ID"
    click.echo(
        f'next: curl {address}/v1/completions -H \'content-type: application/json\' -d \'{{"prompt_id": "{name}", "prompt": "..."}}\'',
        err=True,
    )
    # uvicorn raises the signal that stopped it once more when it is done; by then all is finished and well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        build_app(server, root),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=server.limits.connections,
        timeout_graceful_shutdown=grace,
    )
    uvicorn.Server(config).run(sockets=[listener])
    click.echo("stopped", err=True)
