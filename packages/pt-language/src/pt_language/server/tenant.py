"""What a server holds and what it accepts."""

from __future__ import annotations

from dataclasses import dataclass

from pt_core.errors import UserError

from pt_language.method import LanguageMethod


class UnknownPrompt(UserError):
    """No prompt of that id is loaded."""


class TooLong(UserError):
    """A request does not fit the context window or the limit on tokens."""


@dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Attributes:
        batch: rows that run together.
        queue: requests that may wait; more are refused.
        tokens: new tokens of one request.
        prompts: prompts that may be loaded.
        body: bytes of one HTTP request.
        cache_bytes: keys and values kept for prompts.
        seconds: that a client may take to send one HTTP request.
        connections: that may be open at once; more are answered with 503.
    """

    batch: int = 32
    queue: int = 256
    tokens: int = 512
    prompts: int = 1024
    body: int = 2**20
    cache_bytes: int = 2**30
    seconds: float = 30.0
    connections: int = 1024


@dataclass(frozen=True)
class Tenant:
    """A loaded prompt: its id, the tuned method, and positions in front of every text."""

    name: str
    method: LanguageMethod
    length: int
