"""Rows that decode together: new ones join and finished ones leave between any two steps (continuous batching).

All rows share one cache, padded on the left; a row's positions count its real tokens, so its tokens do not depend on who else is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from pt_language.adapters import DecoderBackbone
    from pt_language.server.prompts import Tenant

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no whole character yet."""


@dataclass(frozen=True)
class Completion:
    """What a request became.

    Attributes:
        text: new text, without the stop sequence.
        tokens: new token ids, the end token not included.
        reason: `stop` (end token or stop sequence) or `length`.
        text_tokens: tokens of the request's own text.
        prompt_tokens: positions of the prompt in front of it.
    """

    text: str
    tokens: tuple[int, ...]
    reason: Literal["stop", "length"]
    text_tokens: int
    prompt_tokens: int


@dataclass(eq=False)
class Request:
    """A text to continue, and what came so far.

    Attributes:
        tenant: the prompt, or None.
        ids: tokens of the text.
        max_new_tokens: at most this many.
        temperature: 0 takes the likeliest token, else tokens are drawn.
        top_p: draw among the likeliest tokens that together have this probability.
        seed: of the request's own generator.
        stop: texts that end the completion.
        emit: called with every piece of text that is final; from the thread that runs the model.
        cancelled: set to True by anyone: the row leaves before the next step.
    """

    tenant: Tenant | None
    ids: tuple[int, ...]
    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    emit: Callable[[str], None] | None = None
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    reason: Literal["stop", "length"] | None = None
    _sent: int = 0
    _cut: int | None = None
    _generator: torch.Generator | None = None

    def completion(self, tokenizer: Any) -> Completion:
        front = self.tenant.length if self.tenant is not None else 0
        return Completion(self.text(tokenizer), tuple(self.tokens), self.reason or "length", len(self.ids), front)

    def text(self, tokenizer: Any) -> str:
        """All new text up to a stop sequence."""
        whole: str = tokenizer.decode(self.tokens)
        return whole if self._cut is None else whole[: self._cut]

    def choose(self, logits: Tensor) -> int:
        """The next token from logits (vocabulary,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(
                self.seed if self.seed is not None else secrets.randbits(62)
            )
        shares = (logits.cpu().double() / self.temperature).softmax(-1)
        if self.top_p < 1:
            values, order = shares.sort(descending=True)
            kept = values.cumsum(0) - values < self.top_p  # the first token always stays
            shares = torch.zeros_like(shares).scatter(0, order, values * kept)
        return int(torch.multinomial(shares, 1, generator=self._generator))

    def take(self, token: int, end: int | None, tokenizer: Any) -> None:
        """Note a new token, whether it ends the completion, and hand out text that can no longer change."""
        if token == end:
            self.reason = "stop"
        else:
            self.tokens.append(token)
            if len(self.tokens) >= self.max_new_tokens:
                self.reason = "length"
        if self.stop:
            whole = tokenizer.decode(self.tokens)
            found = [place for place in (whole.find(text) for text in self.stop) if place >= 0]
            if found:
                self._cut, self.reason = min(found), "stop"
        if self.emit is not None:
            text = self.text(tokenizer)
            final = len(text)
            if self.reason is None:
                final = len(text.rstrip(UNFINISHED))
                held = (n for word in self.stop for n in range(len(word) - 1, 0, -1) if text[:final].endswith(word[:n]))
                final -= max(held, default=0)
            if final > self._sent:
                self.emit(text[self._sent : final])
                self._sent = final


class Rows:
    """Requests that decode together.

    Attributes:
        requests: one per row of the cache.
        forwards: model calls of `step`.
    """

    def __init__(self, backbone: DecoderBackbone) -> None:
        self.backbone = backbone
        self.requests: list[Request] = []
        self.forwards = 0
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def end(self) -> int | None:
        found = self.backbone.tokenizer.eos_token_id
        return found if found is not None else self.backbone.tokenizer.sep_token_id

    def add(self, requests: Sequence[Request], logits: Tensor, cache: Any, mask: Tensor) -> None:
        """Take in rows whose text was read: next-token logits (rows, vocabulary), their cache and its mask."""
        self._choose(requests, logits)
        going = [row for row, request in enumerate(requests) if request.reason is None]
        if not going:
            return
        cache, mask = chosen(self.backbone.module, cache, mask, going)
        if self.requests:
            cache, mask = merged(self.backbone.module, (self._cache, self._mask), (cache, mask))
        self._cache, self._mask = cache, mask
        self.requests += [requests[row] for row in going]

    def step(self) -> None:
        """Drop cancelled rows, then give every other one its next token; finished ones leave."""
        self._keep([row for row, request in enumerate(self.requests) if not request.cancelled])
        if not self.requests:
            return
        last = torch.tensor([[request.tokens[-1]] for request in self.requests], device=self.backbone.device)
        logits, self._cache, self._mask = bridge.step(self.backbone.module, last, self._cache, self._mask)
        self.forwards += 1
        self._choose(self.requests, logits[:, -1].float())
        self._keep([row for row, request in enumerate(self.requests) if request.reason is None])

    def clear(self) -> list[Request]:
        """Drop everything; returns what ran."""
        found, self.requests = self.requests, []
        self._cache, self._mask = None, torch.zeros(0, 0, dtype=torch.long)
        return found

    def _choose(self, requests: Sequence[Request], logits: Tensor) -> None:
        likeliest = logits.argmax(-1).tolist()
        for row, request in enumerate(requests):
            token = likeliest[row] if request.temperature == 0 else request.choose(logits[row])
            request.take(token, self.end, self.backbone.tokenizer)

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) == len(self.requests):
            return
        if not rows:
            self.clear()
            return
        self._cache, self._mask = chosen(self.backbone.module, self._cache, self._mask, rows)
        self.requests = [self.requests[row] for row in rows]


def pairs(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values per block.

    Raises:
        UserError: the model keeps something else.
    """
    found = bridge.pairs_of(cache)
    if found is None:
        raise UserError("this model's cache is no plain list of keys and values: rows cannot join or leave a batch")
    return found


def chosen(model: Any, cache: Any, mask: Tensor, rows: Sequence[int]) -> tuple[Any, Tensor]:
    """Some rows of a cache, without the columns that are padding in all of them."""
    index = torch.tensor(list(rows), device=mask.device)
    mask = mask[index]
    # Only leading padding can go in one piece; padding inside stays behind the mask.
    start = int((mask.cumsum(1) == 0).all(0).sum())
    whole = start == 0 and len(rows) == len(pairs(cache)[0][0])
    if whole:
        return cache, mask
    kept = [(k[index][:, :, start:], v[index][:, :, start:]) for k, v in pairs(cache)]
    return bridge.cache_of(model, kept), mask[:, start:]


def merged(model: Any, first: tuple[Any, Tensor], second: tuple[Any, Tensor]) -> tuple[Any, Tensor]:
    """Two caches with masks as one; the shorter is padded on the left."""
    length = max(first[1].shape[1], second[1].shape[1])

    def padded(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, 0, length - tensor.shape[2], 0))

    both = zip(pairs(first[0]), pairs(second[0]), strict=True)
    whole = [(torch.cat([padded(a), padded(c)]), torch.cat([padded(b), padded(d)])) for (a, b), (c, d) in both]
    mask = torch.cat([F.pad(m, (length - m.shape[1], 0)) for m in (first[1], second[1])])
    return bridge.cache_of(model, whole), mask
