"""What a body of POST /v1/completions may say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pt_core.errors import ConfigError, nearest

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None,),
    "presence_penalty": (None, 0),
    "stream_options": (None,),
    "suffix": (None, ""),
}
"""Fields of OpenAI's API that this server does not have, and the values that ask for nothing."""
KNOWN = (
    "inputs", "max_tokens", "model", "n", "prompt", "prompt_id", "seed", "stop", "stream", "temperature", "top_p", "user",
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A checked call.

    Attributes:
        texts: texts, lists of token ids, or mappings of columns for the prompt's template.
        prompt_id: which prompt; None is the bare model.
        n: completions per text.
    """

    texts: tuple[Any, ...]
    prompt_id: str | None = None
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False


def parse(body: Mapping[str, Any]) -> Wanted:
    """Check a body; numbers that are left out have OpenAI's defaults.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    problems: list[str] = []
    for name in body:
        if name in NEUTRAL:
            if body[name] not in NEUTRAL[name]:
                problems.append(f"{name} is not supported")
        elif name not in KNOWN:
            problems.append(f"unknown field {name[:40]!r}{nearest(name[:40], KNOWN)}")

    def number(name: str, default: float, low: float, high: float, whole: bool = False) -> Any:
        value = body.get(name)
        if value is None:
            return default
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            problems.append(f"{name} must be {'a whole' if whole else 'a'} number from {low} to {high}")
            return default
        return value

    texts = _texts(body, problems)
    prompt_id, stream, model = body.get("prompt_id"), body.get("stream"), body.get("model")
    if not (prompt_id is None or isinstance(prompt_id, str)):
        problems.append("prompt_id must be a text")
    if not (model is None or isinstance(model, str)):
        problems.append("model must be a text")
    if not (stream is None or isinstance(stream, bool)):
        problems.append("stream must be true or false")
    temperature = number("temperature", 1.0, 0, 2)
    if 0 < temperature < 0.01:
        problems.append("temperature must be 0 (greedy) or at least 0.01")
    given = body.get("stop")
    stop = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stop, list) or len(stop) > 4 or not all(isinstance(s, str) and 0 < len(s) <= 64 for s in stop):
        problems.append("stop must be up to 4 texts of 1 to 64 characters")
        stop = []
    numbers: dict[str, Any] = {
        "max_tokens": number("max_tokens", 16, 1, 2**31, whole=True),
        "top_p": number("top_p", 1.0, 0, 1),
        "n": number("n", 1, 1, 8, whole=True),
        "seed": number("seed", 0, 0, 2**62, whole=True) if body.get("seed") is not None else None,
    }
    if not all(map(_whole, _strings(body))):
        problems.append("the body has a text with half a character (a lone surrogate), which no text has")
    if problems:
        raise ConfigError(problems)
    return Wanted(
        tuple(texts), prompt_id, temperature=float(temperature), stop=tuple(stop), stream=bool(stream), **numbers
    )


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
    return not any("\ud800" <= sign <= "\udfff" for sign in text) if not text.isascii() else True


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
