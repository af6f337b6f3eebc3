"""Log-probabilities of tokens in the two forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pt_language.server.request import Score


def in_completion(scores: Sequence[Score], tokenizer: Any) -> dict[str, Any]:
    """tokens, token_logprobs, top_logprobs and text_offset, a list each; an offset is where the token's text begins in all of theirs."""
    tokens = [tokenizer.decode([one.token]) for one in scores]
    starts = [len(tokenizer.decode([one.token for one in scores[:number]])) for number in range(len(scores))]
    top: list[dict[str, float] | None] = []
    for one in scores:
        likeliest: dict[str, float] = {}
        for token, value in one.likeliest:
            likeliest.setdefault(
                tokenizer.decode([token]), value
            )  # of parts of characters, which all look alike, the likeliest
        top.append(None if one.value is None else likeliest)
    return {
        "tokens": tokens,
        "token_logprobs": [one.value for one in scores],
        "top_logprobs": top,
        "text_offset": starts,
    }


def in_chat(scores: Sequence[Score], tokenizer: Any) -> dict[str, Any]:
    """A list of tokens with their log-probability, bytes and likeliest others."""

    def shown(token: int, value: float | None) -> dict[str, Any]:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    content = [
        {**shown(one.token, one.value), "top_logprobs": [shown(token, value) for token, value in one.likeliest]}
        for one in scores
    ]
    return {"content": content, "refusal": None}
