"""What stands around a text's own tokens: special tokens, padding and length, read from the tokenizer by what it writes.

A tokenizer gives a whole padded row; prompts need to know its parts, because learned tokens are put between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import UserError

IntArray = NDArray[np.int64]

PROBES = ("a photo of a cat", "two words")


@dataclass(frozen=True)
class Framing:
    """[head | a text's tokens | tail | pad ... | last], `length` in all.

    Attributes:
        tokens: text -> its own tokens, cleaned as the network's tokenizer cleans it, never cut.
        length: tokens of a row (64, 77 ...).
        filler: an ordinary token, which holds the place of a learned one.
    """

    tokens: Callable[[str], list[int]]
    head: tuple[int, ...]
    tail: tuple[int, ...]
    pad: int
    length: int
    last: tuple[int, ...] = ()
    filler: int = -1

    @property
    def room(self) -> int:
        """Places for a text and its context."""
        return self.length - len(self.head) - len(self.tail) - len(self.last)

    def rows(self, bodies: Sequence[Sequence[int]]) -> IntArray:
        """(text, length) rows of texts given by their tokens."""
        inner = self.length - len(self.last)
        rows = np.full((len(bodies), self.length), self.pad, dtype=np.int64)
        for row, body in zip(rows, bodies, strict=True):
            whole = [*self.head, *body, *self.tail]
            row[: len(whole)] = whole
            row[inner:] = self.last
        return rows


def framing(tokenizer: Any, length: int, source: str) -> Framing:
    """The framing of an open_clip tokenizer.

    Raises:
        UserError: what it writes is not of this form.
    """
    found = _simple(tokenizer, length) if hasattr(tokenizer, "sot_token_id") else _wrapped(tokenizer, length)
    found = replace(found, filler=found.tokens("x")[-1])
    want = np.asarray(tokenizer(list(PROBES), context_length=length))
    have = found.rows([found.tokens(text) for text in PROBES])
    if have.shape != want.shape or bool((have != want).any()):
        raise UserError(
            f"the tokenizer of {source!r} writes rows of an unknown form, so prompts cannot be put into them"
        )
    return found


def _simple(tokenizer: Any, length: int) -> Framing:
    return Framing(tokenizer.encode, (tokenizer.sot_token_id,), (tokenizer.eot_token_id,), 0, length)


def _wrapped(tokenizer: Any, length: int) -> Framing:
    """Around a tokenizer of transformers."""
    from open_clip.tokenizer import get_clean_fn

    inner = tokenizer.tokenizer
    clean = getattr(tokenizer, "clean_fn", None) or get_clean_fn("canonicalize")
    dropped = {inner.sep_token_id} if getattr(tokenizer, "strip_sep_token", False) else set()

    def stripped(ids: Sequence[int]) -> list[int]:
        return [0 if token in dropped else token for token in ids]

    def tokens(text: str) -> list[int]:
        return stripped(inner(clean(text), add_special_tokens=False).input_ids)

    if getattr(tokenizer, "tokenizer_mode", "") == "clips":
        ends = ((inner.bos_token_id,), (inner.eos_token_id,))
        return Framing(tokens, *ends, inner.pad_token_id, length, (inner.cls_token_id,))
    body, whole = tokens(PROBES[0]), stripped(inner(clean(PROBES[0])).input_ids)
    start = next((n for n in range(len(whole)) if whole[n : n + len(body)] == body), 0)
    return Framing(tokens, tuple(whole[:start]), tuple(whole[start + len(body) :]), inner.pad_token_id, length)
