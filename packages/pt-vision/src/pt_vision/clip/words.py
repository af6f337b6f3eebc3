"""Words that a context starts from."""

from __future__ import annotations

from typing import Any

from pt_core.dual import TextTower
from pt_core.errors import ConfigError
from torch import Tensor


def context_vectors(text: TextTower, words: str) -> Tensor:
    """(word, D_t) embeddings of words that are one token each.

    Raises:
        ConfigError: no words, or one that is several tokens: the learned vectors would not be the words that were asked for.
    """
    tower: Any = text
    split = words.split()
    if not split:
        raise ConfigError("words is empty; leave it out for drawn vectors")
    for word in split:
        count = len(tower.framing.tokens(word))
        if count != 1:
            raise ConfigError(f"word {word!r} is {count} tokens of {text.source!r}; choose words of one token")
    found: Tensor = tower.word_vectors(" ".join(split))
    return found
