"""What a body of POST /v1/completions or /v1/chat/completions may say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pt_core.errors import ConfigError, nearest

MOST_LOGPROBS = 20
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
}
"""Fields of OpenAI's API that this server does not have, and the values that ask for nothing."""
COMPLETION: Mapping[str, tuple[Any, ...]] = {**NEUTRAL, "best_of": (None, 1), "suffix": (None, "")}
CHAT: Mapping[str, tuple[Any, ...]] = {
    **NEUTRAL,
    "function_call": (None, "none"),
    "functions": (None, []),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
}
SHARED = (
    "max_tokens",
    "model",
    "n",
    "prompt_id",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "user",
)
KNOWN = (*SHARED, "echo", "inputs", "logprobs", "prompt")
KNOWN_IN_CHAT = (*SHARED, "logprobs", "max_completion_tokens", "messages", "top_logprobs")
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Wanted:
    """A checked call.

    Attributes:
        texts: texts, lists of token ids, or mappings of columns for the prompt's template; of a chat, its list of messages.
        model: which prompt; None is the bare model.
        max_tokens: None: as many as there is room for.
        n: completions per text.
        logprobs: how many of the likeliest tokens are told beside each new one; None: no log-probabilities.
        echo: give the text in front of what continues it.
        usage: tell the numbers of tokens at the end of a stream too.
    """

    texts: tuple[Any, ...]
    model: str | None = None
    chat: bool = False
    max_tokens: int | None = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    logprobs: int | None = None
    echo: bool = False
    usage: bool = False


class _Body:
    """A body with the problems that were found in it."""

    def __init__(self, body: Mapping[str, Any], known: tuple[str, ...], neutral: Mapping[str, tuple[Any, ...]]) -> None:
        self.body = body
        self.problems: list[str] = []
        for name in body:
            if name in neutral:
                if body[name] not in neutral[name]:
                    self.problems.append(f"{name} is not supported")
            elif name not in known:
                self.problems.append(f"unknown field {name[:40]!r}{nearest(name[:40], known)}")

    def number(self, name: str, default: Any, low: float, high: float, whole: bool = False) -> Any:
        value = self.body.get(name)
        if value is None:
            return default
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            self.problems.append(f"{name} must be {'a whole' if whole else 'a'} number from {low} to {high}")
            return default
        return value

    def flag(self, name: str) -> bool:
        value = self.body.get(name)
        if not (value is None or isinstance(value, bool)):
            self.problems.append(f"{name} must be true or false")
        return value is True

    def text(self, name: str) -> str | None:
        value = self.body.get(name)
        if not (value is None or isinstance(value, str)):
            self.problems.append(f"{name} must be a text")
            return None
        return value

    def shared(self) -> dict[str, Any]:
        """What both kinds of calls take."""
        temperature = self.number("temperature", 1.0, 0, 2)
        if 0 < temperature < 0.01:
            self.problems.append("temperature must be 0 (greedy) or at least 0.01")
        return {
            "model": self.model(),
            "temperature": float(temperature),
            "top_p": self.number("top_p", 1.0, 0, 1),
            "n": self.number("n", 1, 1, 8, whole=True),
            "seed": self.number("seed", None, 0, 2**62, whole=True),
            "stop": self.stop(),
            "stream": self.flag("stream"),
            "usage": self.usage(),
        }

    def model(self) -> str | None:
        """`model`, or its older name here, `prompt_id`."""
        model, prompt = self.text("model"), self.text("prompt_id")
        if model is not None and prompt is not None and model != prompt:
            self.problems.append(f"model {model[:80]!r} and prompt_id {prompt[:80]!r} name two prompts; give one")
        return model if model is not None else prompt

    def stop(self) -> tuple[str, ...]:
        given = self.body.get("stop")
        stop = [] if given is None else [given] if isinstance(given, str) else given
        good = isinstance(stop, list) and all(isinstance(one, str) and 0 < len(one) <= 64 for one in stop)
        if not good or len(stop) > 4:
            self.problems.append("stop must be up to 4 texts of 1 to 64 characters")
            return ()
        return tuple(stop)

    def usage(self) -> bool:
        given = self.body.get("stream_options")
        if given is None:
            return False
        if not isinstance(given, Mapping) or set(given) - {"include_usage", "include_obfuscation"}:
            self.problems.append('stream_options must be {"include_usage": true or false}')
            return False
        if not self.body.get("stream"):
            self.problems.append("stream_options belong to stream: true")
        return given.get("include_usage") is True

    def checked(self) -> None:
        if not all(map(_whole, _strings(self.body))):
            self.problems.append("the body has a text with half a character (a lone surrogate), which no text has")
        if self.problems:
            raise ConfigError(self.problems)


def parse(given: Mapping[str, Any]) -> Wanted:
    """Check a body of /v1/completions; numbers that are left out have OpenAI's defaults.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    body = _Body(given, KNOWN, COMPLETION)
    texts, shared = _texts(given, body.problems), body.shared()
    echo = body.flag("echo")
    logprobs = body.number("logprobs", None, 0, MOST_LOGPROBS, whole=True)
    tokens = body.number("max_tokens", 16, 0 if echo else 1, 2**31, whole=True)
    if echo and shared["stream"]:
        body.problems.append("echo does not go with stream; the client has the text")
    body.checked()
    return Wanted(tuple(texts), max_tokens=tokens, logprobs=logprobs, echo=echo, **shared)


def parse_chat(given: Mapping[str, Any]) -> Wanted:
    """Check a body of /v1/chat/completions.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    body = _Body(given, KNOWN_IN_CHAT, CHAT)
    messages, shared = _messages(given.get("messages"), body.problems), body.shared()
    count = body.number("top_logprobs", 0, 0, MOST_LOGPROBS, whole=True)
    logprobs = count if body.flag("logprobs") else None
    if logprobs is None and count:
        body.problems.append("top_logprobs belong to logprobs: true")
    name = "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
    tokens = body.number(name, None, 1, 2**31, whole=True)
    body.checked()
    return Wanted((messages,), chat=True, max_tokens=tokens, logprobs=logprobs, **shared)


def _messages(given: Any, problems: list[str]) -> list[dict[str, str]]:
    """Messages of text, as a chat template takes them."""
    found: list[dict[str, str]] = []
    if not isinstance(given, list) or not given or not all(isinstance(one, Mapping) for one in given):
        problems.append("messages must be a list of objects with role and content")
        return found
    for number, message in enumerate(given):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            problems.append(f"message {number} has role {str(role)[:40]!r}; it must be one of {', '.join(ROLES)}")
        if isinstance(content, list):
            parts = [
                part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
                for part in content
            ]
            content = "".join(parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]
        if not isinstance(content, str):
            problems.append(f"message {number} has no content of text")
        found.append({"role": "system" if role == "developer" else str(role), "content": str(content)})
    return found


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one


def _whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text)


def _texts(body: Mapping[str, Any], problems: list[str]) -> list[Any]:
    """`prompt`: a text, a list of texts, of token ids, or of lists of token ids; or `inputs`: an object of columns, or a list of them."""
    if ("prompt" in body) == ("inputs" in body):
        problems.append("give either prompt (text) or inputs (columns of the prompt's template)")
        return []
    if "inputs" in body:
        rows = body["inputs"] if isinstance(body["inputs"], list) else [body["inputs"]]
        if not rows or not all(isinstance(row, dict) and all(isinstance(v, str) for v in row.values()) for row in rows):
            problems.append("inputs must be an object of texts, or a list of them")
        return rows
    prompt = body["prompt"]
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return [prompt]
    found = prompt if isinstance(prompt, list) else [prompt]
    good = (isinstance(t, str) or (isinstance(t, list) and t and all(isinstance(i, int) for i in t)) for t in found)
    if not found or not all(good):
        problems.append("prompt must be a text, a list of texts, or token ids")
    return found
