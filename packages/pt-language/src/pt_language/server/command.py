"""`pt-language serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pt_core.errors import UserError, require

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.run.declare.modality import Modality

    from pt_language.server.prompts import PromptServer


def count(flag: str, default: int, text: str, low: int = 1, high: int | None = None) -> Any:
    return click.option(flag, default=default, show_default=True, type=click.IntRange(low, high), help=text)


def serve(modality: Modality) -> click.Command:
    """The command that serves runs of a modality."""

    @click.command()
    @click.argument("runs", nargs=-1)
    @click.option(
        "--backbone", help="Backbone of all prompts (default: the first run's); needed where no run is given."
    )
    @click.option("--weights", help="Local weight folder for the backbone.")
    @click.option(
        "--prompts-root",
        type=click.Path(path_type=Path),
        help="Let clients load prompts from folders below this one, and unload.",
    )
    @click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="Address to listen on. Who reaches it may use the server, unless there is a --token-file.",
    )
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        help="File with a token that clients must send (Authorization: Bearer TOKEN; api_key of OpenAI's client).",
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
        token_file: Path | None,
        **rest: Any,
    ) -> None:
        """Serve tuned prompts over HTTP, many over one backbone. RUNS are folders, or ID=FOLDER."""
        for module in ("starlette", "uvicorn"):
            require(module, "pt-language[serve]")
        from pt_language.server.listen import run_server

        root = rest["prompts_root"]
        if root is not None and not root.is_dir():
            raise UserError(f"--prompts-root {root} is not a folder")
        token = None if token_file is None else read_token(token_file)
        server = load_server(modality, runs, backbone, weights, device, rest)
        run_server(server, root, host, port, grace, token)

    return serve


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        UserError: it cannot be read, or holds no single word of plain characters.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--token-file {path} cannot be read as plain text") from None
    if not token or token.split() != [token]:
        raise UserError(f"--token-file {path} must hold one word, the token")
    return token


def load_server(
    modality: Modality, runs: tuple[str, ...], backbone: str | None, weights: str | None, device: Any, limits: dict[str, Any]
) -> PromptServer:  # fmt: skip
    """A server with all runs loaded.

    Raises:
        UserError: two runs of one id, no backbone, or a run that cannot be loaded.
    """
    from pt_core.run.declare.options import TrainOptions
    from pt_core.run.train.world import World
    from pt_core.run.use.predict import load

    from pt_language.server.prompts import PromptServer
    from pt_language.server.tenant import Limits

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
        network: Any = modality.load_backbone(backbone, weights, None, "backbone")
        network.to(World(TrainOptions(device=device)).device)
    else:
        network = load(modality, next(iter(named.values())), weights=weights, device=device).method.backbone
    server = PromptServer(network, bounds)
    for name, run in named.items():
        server.add(name, run)
    return server


def named_runs(runs: tuple[str, ...]) -> dict[str, Path]:
    """`ID=FOLDER`, or a folder whose name is the id (of a `tuned/` folder: the run's name).

    Raises:
        UserError: two of one id.
    """
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
