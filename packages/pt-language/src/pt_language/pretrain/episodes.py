"""Labelled examples in one sequence, whose label words are drawn anew for every episode."""

from __future__ import annotations

import random
import re
from collections import defaultdict

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pt_language.data.corpus import window
from pt_language.pretrain.config import Phase

TEMPLATES = (
    ("input: {} output: {}", 4),
    ("text: {} label: {}", 1),
    ("{}\nanswer: {}", 1),
    ("question: {} answer: {}", 1),
    ("sentence: {} class: {}", 1),
)
"""(form of an example, how often it is drawn)."""
KINDS = ("copy", "word", "module")
LABEL, NEXT = 2, 1
"""Marks of tokens in the loss."""
MOST = 24
"""Texts of one class in an episode, before they are repeated."""


class Episodes:
    """Draws token sequences; everything is a function of the given generator.

    Args:
        groups: class name -> token ids of its sentences, each a list of words' ids.
        labels: token ids of the label words.
        documents: one long list of token ids, for plain text.
    """

    def __init__(
        self, tokenizer: Tokenizer, groups: dict[str, list[str]], labels: list[str], documents: list[int]
    ) -> None:
        self.tokenizer = tokenizer
        self.groups = {name: texts for name, texts in groups.items() if len(texts) >= 8}
        self.names = sorted(self.groups)
        self.labels, self.documents = labels, np.asarray(documents)
        self.pool = [text for name in self.names for text in self.groups[name]]
        holding: dict[str, list[str]] = defaultdict(list)
        for text in self.pool:
            for word in set(re.findall(r"[a-z]{4,}", text.lower())):
                holding[word].append(text)
        self.by_word = {word: texts for word, texts in sorted(holding.items()) if 8 <= len(texts) <= 400}
        self.words = list(self.by_word)
        self.short_labels = [label for label in labels if len(self.encode(f" {label}")) == 1]

    def texts(self, kind: str, classes: int, words: tuple[int, int], rng: random.Random) -> list[list[str]]:
        """One list of up to `MOST` different texts per class (one text for the kind `copy`)."""
        if kind == "module":
            found = [self.groups[name] for name in rng.sample(self.names, classes)]
            found = [rng.sample(texts, min(MOST, len(texts))) for texts in found]
            return [[crop(text, rng.randint(*words) + 4, rng) for text in texts] for texts in found]
        if kind == "word":
            return [self._windows(word, words, rng) for word in rng.sample(self.words, classes)]
        return [[crop(text, rng.randint(*words), rng)] for text in rng.sample(self.pool, classes)]

    def _windows(self, word: str, words: tuple[int, int], rng: random.Random) -> list[str]:
        texts = rng.sample(self.by_word[word], min(MOST, len(self.by_word[word])))
        sizes = [rng.randint(*words) for _ in texts]
        return [window(text, word, size, rng.randrange(size)) for text, size in zip(texts, sizes, strict=True)]

    def episode(
        self, length: int, words: tuple[int, int], rng: random.Random, kind: str, classes: int | None = None
    ) -> tuple[list[int], list[int]]:
        """(tokens, marks), at least `length` long; marks are LABEL on labels of classes seen before, NEXT behind them, else 0."""
        classes = classes or rng.choice((2, 2, 2, 3, 4, 6))
        template = rng.choices([t for t, _ in TEMPLATES], [w for _, w in TEMPLATES])[0]
        ends = rng.random() < 0.7
        groups = self.texts(kind, classes, words, rng)
        names = rng.sample(self.short_labels if rng.random() < 0.8 else self.labels, classes)
        tokens: list[int] = []
        marks: list[int] = []
        order: list[int] = []
        shown = [0] * classes
        before, between = template.split("{}")[:2]
        while len(tokens) < length:
            if not order:
                order = list(range(classes))
                rng.shuffle(order)
            group = order.pop()
            text = groups[group][shown[group] % len(groups[group])]
            body = self.encode(f"{before}{text}{between.rstrip(' ')}")
            label = self.encode(f" {names[group]}")
            tail = [0] if ends else self.encode("\n")
            tokens += body + label + tail
            marks += [0] * len(body) + [LABEL if shown[group] else 0] * len(label) + [NEXT] * len(tail)
            shown[group] += 1
        return tokens, marks

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def batch(self, rows: int, phase: Phase, rng: random.Random) -> tuple[Tensor, Tensor]:
        """tokens (rows, length) and marks (rows, length); about `phase.plain` of the rows are running text."""
        tokens, marks = [], []
        for _ in range(rows):
            if rng.random() < phase.plain:
                begin = rng.randrange(len(self.documents) - phase.length)
                one, mark = self.documents[begin : begin + phase.length].tolist(), [NEXT] * phase.length
            else:
                one, mark = self.episode(phase.length, phase.words, rng, rng.choices(KINDS, phase.kinds)[0])
            tokens.append(one[: phase.length])
            marks.append(mark[: phase.length])
        return torch.tensor(tokens), torch.tensor(marks)


def crop(text: str, count: int, rng: random.Random) -> str:
    """`count` neighbouring words of a text."""
    parts = text.split()
    start = rng.randrange(max(1, len(parts) - count + 1))
    return " ".join(parts[start : start + count])
