"""The answer to a call for completions: one JSON object, or server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response

from pt_language.server.calls import Wanted
from pt_language.server.prompts import PromptServer
from pt_language.server.request import Request

FINISHED = object()
"""What a finished request sends instead of text."""


class Answer:
    """The answer to a call, from the events (index, text | FINISHED | exception) of its requests."""

    def __init__(self, server: PromptServer, wanted: Wanted, requests: Sequence[Request]) -> None:
        self.tokenizer, self.requests, self.wanted = server.backbone.tokenizer, requests, wanted
        self.head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": wanted.prompt_id or server.backbone.source,
        }

    async def whole(self, events: asyncio.Queue[tuple[int, Any]], call: Call) -> Response:
        """One JSON answer; a caller who hangs up frees the rows."""
        gone = asyncio.ensure_future(call.receive())
        try:
            for _ in self.requests:
                event = asyncio.ensure_future(events.get())
                await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not event.done():
                    event.cancel()
                    return Response(status_code=499)
                if isinstance(event.result()[1], BaseException):
                    raise event.result()[1]
        finally:
            gone.cancel()
            self.cancel()
        found = [request.completion(self.tokenizer) for request in self.requests]
        choices = [choice(index, done.text, done.reason) for index, done in enumerate(found)]
        new, read = sum(len(done.tokens) for done in found), sum(done.text_tokens for done in found[:: self.wanted.n])
        usage = {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}
        return JSONResponse({**self.head, "choices": choices, "usage": usage})

    async def stream(self, events: asyncio.Queue[tuple[int, Any]]) -> AsyncIterator[str]:
        """Server-sent events: pieces of text, then [DONE]."""
        left = len(self.requests)
        try:
            while left:
                index, event = await events.get()
                if isinstance(event, BaseException):
                    yield line({"error": error_of(500, "the model failed on this request")})
                    return
                if event is FINISHED:
                    left -= 1
                    yield line({**self.head, "choices": [choice(index, "", self.requests[index].reason)]})
                else:
                    yield line({**self.head, "choices": [choice(index, event, None)]})
            yield "data: [DONE]\n\n"
        finally:
            self.cancel()

    def cancel(self) -> None:
        for request in self.requests:
            request.cancelled = True


def choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def line(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def error_of(status: int, message: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    return {"message": message, "type": kind, "code": status}
