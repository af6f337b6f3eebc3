"""A text to continue behind a prompt, and what became of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pt_language.server.tenant import Tenant

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no whole character yet."""


@dataclass(frozen=True)
class Score:
    """Log-probability of a token, of the unscaled distribution, and the likeliest tokens in its place, the likeliest first.

    Attributes:
        value: None for the first token of a text, before which there is nothing.
    """

    token: int
    value: float | None
    likeliest: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, token: int, logits: Tensor, count: int) -> Score:
        """From logits (vocabulary,)."""
        values = logits.float().log_softmax(-1)
        best = values.topk(min(count, len(values)))
        return cls(token, float(values[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))


@dataclass(frozen=True)
class Completion:
    """What a request became.

    Attributes:
        text: new text, without the stop sequence.
        tokens: new token ids, the end token not included.
        reason: `stop` (end token or stop sequence) or `length`.
        text_tokens: tokens of the request's own text.
        prompt_tokens: positions of the prompt in front of it.
        scores: of the new tokens, where log-probabilities were asked for; those behind a stop sequence's beginning are left out.
        text_scores: of the own text's tokens, where these were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    reason: Literal["stop", "length"]
    text_tokens: int
    prompt_tokens: int
    scores: tuple[Score, ...] = ()
    text_scores: tuple[Score, ...] = ()


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
        logprobs: how many of the likeliest tokens are scored beside each new one; None: no scores.
        score_text: also score the own text's tokens.
        marks: how many tokens there were at each call of `emit`.
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
    logprobs: int | None = None
    score_text: bool = False
    scores: list[Score] = field(default_factory=list)
    text_scores: list[Score] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    _sent: int = 0
    _cut: int | None = None
    _generator: torch.Generator | None = None

    def completion(self, tokenizer: Any) -> Completion:
        front = self.tenant.length if self.tenant is not None else 0
        text, kept = self.text(tokenizer), self.scores
        if self._cut is not None:
            kept = [one for n, one in enumerate(kept) if len(tokenizer.decode(self.tokens[:n])) < len(text)]
        return Completion(
            text, tuple(self.tokens), self.reason or "length", len(self.ids), front, tuple(kept), tuple(self.text_scores)
        )  # fmt: skip

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

    def read(self, logits: Tensor) -> None:
        """Score the own text, whose last tokens' logits are (tokens, vocabulary)."""
        assert self.logprobs is not None
        self.text_scores = [Score(self.ids[0], None)]
        for number, token in enumerate(self.ids[1:]):
            self.text_scores.append(Score.of(token, logits[len(logits) - len(self.ids) + number], self.logprobs))

    def take(self, token: int, end: int | None, tokenizer: Any, logits: Tensor) -> None:
        """Note a new token, whether it ends the completion, and hand out text that can no longer change."""
        if self.max_new_tokens == 0:
            self.reason = "length"
        elif token == end:
            self.reason = "stop"
        else:
            self.tokens.append(token)
            if self.logprobs is not None:
                self.scores.append(Score.of(token, logits, self.logprobs))
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
                self.marks.append(len(self.tokens))
                self.emit(text[self._sent : final])
                self._sent = final
