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
from pt_language.server.request import Completion, Request
from pt_language.server.scores import in_chat, in_completion

FINISHED = object()
"""What a finished request sends instead of text."""


class Answer:
    """The answer to a call, from the events (index, text | FINISHED | exception) of its requests.

    Args:
        texts: of the requests, for `echo`.
    """

    def __init__(self, server: PromptServer, wanted: Wanted, requests: Sequence[Request], texts: Sequence[str]) -> None:
        self.tokenizer, self.requests, self.wanted, self.texts = server.backbone.tokenizer, requests, wanted, texts
        kind = "chat.completion" if wanted.chat else "text_completion"
        self.head = {
            "id": f"{'chatcmpl' if wanted.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if wanted.chat and wanted.stream else kind,
            "created": int(time.time()),
            "model": wanted.model or server.backbone.source,
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
        choices = [self._choice(index, done) for index, done in enumerate(found)]
        return JSONResponse({**self.head, "choices": choices, "usage": self._usage(found)})

    async def stream(self, events: asyncio.Queue[tuple[int, Any]]) -> AsyncIterator[str]:
        """Server-sent events: pieces of text, then [DONE]."""
        left, pieces, told = len(self.requests), [0] * len(self.requests), [0] * len(self.requests)
        usage = {"usage": None} if self.wanted.usage else {}
        try:
            if self.wanted.chat:
                for index in range(left):
                    yield line(
                        {**self.head, "choices": [self._part(index, {"role": "assistant", "content": ""})], **usage}
                    )
            while left:
                index, event = await events.get()
                if isinstance(event, BaseException):
                    yield line({"error": error_of(500, "the model failed on this request")})
                    return
                request, text, reason = self.requests[index], "", None
                if event is FINISHED:
                    left -= 1
                    reason, until = request.reason, len(request.completion(self.tokenizer).scores)
                else:
                    text, until = event, request.marks[pieces[index]]
                    pieces[index] += 1
                scores = self._scores(request.scores[told[index] : until], index) if until > told[index] else None
                told[index] = max(told[index], until)
                yield line(
                    {
                        **self.head,
                        "choices": [self._part(index, {"content": text} if text else {}, reason, scores)],
                        **usage,
                    }
                )
            if self.wanted.usage:
                found = [request.completion(self.tokenizer) for request in self.requests]
                yield line({**self.head, "choices": [], "usage": self._usage(found)})
            yield "data: [DONE]\n\n"
        finally:
            self.cancel()

    def cancel(self) -> None:
        for request in self.requests:
            request.cancelled = True

    def _choice(self, index: int, done: Completion) -> dict[str, Any]:
        if self.wanted.chat:
            message = {"role": "assistant", "content": done.text, "refusal": None}
            scores = self._scores(done.scores, index)
            return {"index": index, "message": message, "logprobs": scores, "finish_reason": done.reason}
        front = self.texts[index] if self.wanted.echo else ""
        scores = self._scores([*done.text_scores, *done.scores], index)
        return {"index": index, "text": front + done.text, "logprobs": scores, "finish_reason": done.reason}

    def _part(
        self, index: int, delta: Mapping[str, str], reason: str | None = None, scores: Any = None
    ) -> dict[str, Any]:
        """A piece of a stream's choice."""
        shown = {"delta": delta} if self.wanted.chat else {"text": delta.get("content", "")}
        return {"index": index, **shown, "logprobs": scores, "finish_reason": reason}

    def _scores(self, scores: Sequence[Any], index: int) -> Any:
        if self.wanted.logprobs is None:
            return None
        return in_chat(scores, self.tokenizer) if self.wanted.chat else in_completion(scores, self.tokenizer)

    def _usage(self, found: Sequence[Completion]) -> dict[str, int]:
        new, read = sum(len(done.tokens) for done in found), sum(done.text_tokens for done in found[:: self.wanted.n])
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def line(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def error_of(status: int, message: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    return {"message": message, "type": kind, "code": status}
