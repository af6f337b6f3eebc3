"""`pt-language serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_language.server.prompts import PromptServer


def count(flag: str, default: int, text: str, low: int = 1, high: int | None = None) -> Any:
    return click.option(flag, default=default, show_default=True, type=click.IntRange(low, high), help=text)


@click.command()
@click.argument("runs", nargs=-1)
@click.option("--backbone", help="Backbone of all prompts (default: the first run's); needed where no run is given.")
@click.option("--weights", help="Local weight folder for the backbone.")
@click.option(
    "--prompts-root",
    type=click.Path(path_type=Path),
    help="Let clients load prompts from folders below this one, and unload.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. There is no authentication."
)
@count("--port", 8000, "Port to listen on; 0 takes a free one.", 0, 65535)
@count("--max-batch", 32, "Rows that run together.")
@count("--max-queue", 256, "Requests that may wait; more get status 429.")
@count("--max-tokens", 512, "New tokens of one request; more get status 400.")
@count("--max-body", 2**20, "Bytes of one request; more get status 413.")
@count("--max-prompts", 1024, "Prompts that may be loaded.")
@count("--cache-mb", 1024, "Keys and values kept for prompts, in MB.")
@count("--grace", 30, "Seconds that running requests get to finish after SIGTERM.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
def serve(
    runs: tuple[str, ...],
    backbone: str | None,
    weights: str | None,
    device: str,
    host: str,
    port: int,
    grace: int,
    **rest: Any,
) -> None:
    """Serve tuned prompts over HTTP, many over one backbone. RUNS are folders, or ID=FOLDER."""
    from pt_core.errors import UserError, require

    for module in ("starlette", "uvicorn"):
        require(module, "pt-language[serve]")
    root = rest["prompts_root"]
    if root is not None and not root.is_dir():
        raise UserError(f"--prompts-root {root} is not a folder")
    server = load_server(runs, backbone, weights, device, rest)
    run_server(server, root, host, port, grace)


def load_server(
    runs: tuple[str, ...], backbone: str | None, weights: str | None, device: Any, limits: dict[str, Any]
) -> PromptServer:
    """A server with all runs loaded.

    Raises:
        UserError: two runs of one id, no backbone, or a run that cannot be loaded.
    """
    from pt_core.errors import UserError
    from pt_core.run.declare.options import TrainOptions
    from pt_core.run.train.world import World
    from pt_core.run.use.predict import load

    from pt_language.backbones import load_backbone
    from pt_language.modality import Language
    from pt_language.server.prompts import Limits, PromptServer

    named = named_runs(runs)
    bounds = Limits(
        batch=limits["max_batch"],
        queue=limits["max_queue"],
        tokens=limits["max_tokens"],
        prompts=limits["max_prompts"],
        body=limits["max_body"],
        cache_bytes=limits["cache_mb"] * 2**20,
    )
    if not named and backbone is None:
        raise UserError("give runs to serve, or --backbone (and --prompts-root, so that prompts can be loaded later)")
    if backbone is not None:
        network: Any = load_backbone(backbone, weights)
        network.to(World(TrainOptions(device=device)).device)
    else:
        network = load(Language(), next(iter(named.values())), weights=weights, device=device).method.backbone
    server = PromptServer(network, bounds)
    for name, run in named.items():
        server.add(name, run)
    return server


def named_runs(runs: tuple[str, ...]) -> dict[str, Path]:
    """`ID=FOLDER`, or a folder whose name is the id (of a `tuned/` folder: the run's name).

    Raises:
        UserError: two of one id.
    """
    from pt_core.errors import UserError

    named: dict[str, Path] = {}
    for given in runs:
        name, found, folder = given.partition("=")
        path = Path(folder if found else given)
        if not found:
            whole = path.resolve()
            name = whole.parent.name if whole.name == "tuned" else whole.name
        if name in named:
            raise UserError(f"two runs are called {name!r}; name them: ID=FOLDER")
        named[name] = path
    return named


def run_server(server: PromptServer, root: Path | None, host: str, port: int, grace: int) -> None:
    """Listen until SIGTERM or Ctrl-C; what was accepted is finished.

    Raises:
        UserError: the address cannot be used.
    """
    import signal
    import socket

    import uvicorn
    from pt_core.errors import UserError

    from pt_language.server.http import build_app

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
        timeout_graceful_shutdown=grace,
    )
    uvicorn.Server(config).run(sockets=[listener])
    click.echo("stopped", err=True)
