"""The HTTP face of a `PromptServer`: completions in the form of OpenAI's API. `model` names the prompt, or the backbone for no prompt.

POST /v1/completions          complete texts behind a prompt; `stream` sends server-sent events
POST /v1/chat/completions     the same for messages, through the tokenizer's chat template
GET /v1/models[/{id}]         the backbone and the loaded prompts, as models
GET /v1/prompts               the loaded prompts
PUT, DELETE /v1/prompts/{id}  load {"path": folder below the configured root}, or unload
GET /healthz                  whether it runs, and how much

Errors are {"error": {"message", "type", "code"}}: 400 bad values or too many tokens, 401 no or another token, 404 unknown prompt, 408 body
not sent in time, 413 body too large, 415 no JSON, 429 queue full, 503 shutting down. With a token every route but /healthz asks for it
(`Authorization: Bearer TOKEN`); without one, listen on a local address, or put a proxy in front.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pt_core.errors import UserError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pt_language.server.answer import FINISHED, Answer, error_of
from pt_language.server.calls import Wanted, parse, parse_chat
from pt_language.server.engine import Busy, Closing, Engine, Job
from pt_language.server.prompts import PromptServer
from pt_language.server.request import Request
from pt_language.server.tenant import Limits, UnknownPrompt

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STATUS: Mapping[type[UserError], int] = {UnknownPrompt: 404, Busy: 429, Closing: 503}


def build_app(server: PromptServer, root: Path | None = None, token: str | None = None) -> Starlette:
    """The ASGI application of a server.

    Args:
        root: folder below which clients may name prompts to load; None: clients cannot load or unload any.
        token: what clients must send as bearer token; None: nothing.
    """
    engine = Engine(server)
    started = int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        await run_in_threadpool(engine.close)

    async def completions(call: Call) -> Response:
        return await answered(call, parse(await read_object(call, server.limits)))

    async def chat(call: Call) -> Response:
        wanted = parse_chat(await read_object(call, server.limits))
        return await answered(call, replace(wanted, texts=(server.chat(wanted.texts[0]),)))

    async def answered(call: Call, wanted: Wanted) -> Response:
        count, most = len(wanted.texts) * wanted.n, server.limits.queue
        if count > most:  # told before anything is made of them: they could never wait all at once
            raise UserError(f"the body asks for {count:,} completions, this server takes up to {most:,} at once")
        name = server.named(wanted.model)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any]]()

        def tell(index: int, event: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, (index, event))

        def over(index: int) -> Callable[[BaseException | None], None]:
            return lambda error: tell(index, FINISHED if error is None else error)

        def make(index: int, text: Any) -> Request:
            options = {
                "temperature": wanted.temperature,
                "top_p": wanted.top_p,
                "seed": None if wanted.seed is None else wanted.seed + index,
                "stop": wanted.stop,
                "emit": (lambda piece: tell(index, piece)) if wanted.stream else None,
                "logprobs": wanted.logprobs,
                "score_text": wanted.echo and wanted.logprobs is not None,
            }
            return server.request(text, name, wanted.max_tokens, **options)

        texts = [text for text in wanted.texts for _ in range(wanted.n)]
        requests = await run_in_threadpool(lambda: [make(index, text) for index, text in enumerate(texts)])
        pairs = zip(texts, requests, strict=True) if wanted.echo else ()
        shown = [text if isinstance(text, str) else server.shown(request) for text, request in pairs]
        engine.submit([Job(request, over(index)) for index, request in enumerate(requests)])
        answer = Answer(server, wanted, requests, shown)
        if wanted.stream:
            return StreamingResponse(
                answer.stream(events), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )
        return await answer.whole(events, call)

    async def models(call: Call) -> Response:
        names = [server.backbone.source, *server.names]
        return JSONResponse({"object": "list", "data": [as_model(server, name, started) for name in names]})

    async def one_model(call: Call) -> Response:
        name = str(call.path_params["id"])
        server.named(name)
        return JSONResponse(as_model(server, name, started))

    async def prompts(call: Call) -> Response:
        return JSONResponse({"object": "list", "data": [describe(server, name) for name in server.names]})

    async def put(call: Call) -> Response:
        name = str(call.path_params["id"])
        given = await read_object(call, server.limits)
        if not NAME.fullmatch(name):
            raise HTTPException(400, "an id has 1 to 64 letters, digits, dots, dashes and underscores")
        folder = inside(root, given)
        known = name in server.names
        try:
            await run_in_threadpool(server.add, name, folder)
        except UserError as error:  # where the root lies is not the clients' business
            told = str(error).replace(str(folder), str(given["path"]))
            raise type(error)(told.replace(str(root), "ROOT")) from None
        return JSONResponse(describe(server, name), 200 if known else 201)

    async def delete(call: Call) -> Response:
        if root is None:
            raise HTTPException(403, "this server's prompts are fixed; start it with --prompts-root to change them")
        server.remove(str(call.path_params["id"]))
        return Response(status_code=204)

    async def health(call: Call) -> Response:
        return JSONResponse(
            {"status": "ok", "prompts": len(server), "running": engine.running, "waiting": engine.waiting}
        )

    app = Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/models/{id:path}", one_model, methods=["GET"]),
            Route("/v1/prompts", prompts, methods=["GET"]),
            Route("/v1/prompts/{id}", put, methods=["PUT"]),
            Route("/v1/prompts/{id}", delete, methods=["DELETE"]),
            Route("/healthz", health, methods=["GET"]),
        ],
        exception_handlers={UserError: on_user_error, HTTPException: on_http_error, Exception: on_defect},  # type: ignore[dict-item]
        lifespan=lifespan,
        middleware=[] if token is None else [Middleware(Guard, token=token)],
    )
    app.state.engine = engine
    return app


class Guard:
    """Lets through who sends the token, and everybody to /healthz."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            sent = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(sent, self.token):
                wrong = failed(
                    401, "send the server's token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
                )
                await wrong(scope, receive, send)
                return
        await self.app(scope, receive, send)


def as_model(server: PromptServer, name: str, created: int) -> dict[str, Any]:
    """A prompt, or the bare backbone, as OpenAI's clients list models."""
    parent = None if server.named(name) is None else server.backbone.source
    return {"id": name, "object": "model", "created": created, "owned_by": "pt-language", "parent": parent}


def describe(server: PromptServer, name: str) -> dict[str, Any]:
    tenant = server.tenant(name)
    assert tenant is not None
    return {"id": name, "object": "prompt", "method": type(tenant.method).__name__, "prompt_tokens": tenant.length}


def inside(root: Path | None, given: Mapping[str, Any]) -> Path:
    """The folder that a client names, below the root."""
    if root is None:
        raise HTTPException(403, "this server's prompts are fixed; start it with --prompts-root to change them")
    path = given.get("path")
    if set(given) != {"path"} or not isinstance(path, str) or not 0 < len(path) <= 4096 or "\0" in path:
        raise HTTPException(400, 'the body must be {"path": a folder below the prompts root}')
    folder = (root / path).resolve()
    if Path(path).is_absolute() or not folder.is_relative_to(root.resolve()):
        raise HTTPException(400, f"path {path[:80]!r} leaves the prompts root")
    return folder


async def read_object(call: Call, limits: Limits) -> dict[str, Any]:
    """The JSON object in a body, as large and as slow as the limits allow."""
    limit = limits.body
    if call.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send the body as application/json")
    too_large = HTTPException(413, f"the body is larger than {limit:,} bytes")
    length = call.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for piece in call.stream():
                body += piece
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        headers = {"Connection": "close"}
        raise HTTPException(408, f"the body was not sent within {limits.seconds:g} seconds", headers) from None
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {str(error)[:120]}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return found


def failed(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error_of(status, message)}, status, headers=headers)


async def on_user_error(call: Call, error: Exception) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)
    return failed(status, str(error), {"Retry-After": "1"} if status in (429, 503) else None)


async def on_http_error(call: Call, error: HTTPException) -> Response:
    return failed(error.status_code, error.detail, error.headers)


async def on_defect(call: Call, error: Exception) -> Response:
    return failed(500, "the server failed on this request")
