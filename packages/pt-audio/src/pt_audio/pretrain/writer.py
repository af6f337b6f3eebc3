"""Generated texts for the built-in text models.

A text is what a listener would have to say about a clip: `context question answer`. The context names what the clip would hold, as loose
words; later an aligner puts its vectors in that place. So the model learns to answer from what stands in front of the question:

    bell bell 2 5 , dog dog 6 9  what are the sound events?  bell and dog
    frog open open  this is a sound of red   sea sea cry  this is a sound of two   frog open  this is a sound of  red

The second form (keys and labels drawn at random) can only be answered by reading the earlier pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pt_audio.data import wording as say

Piece = tuple[str, float]
"""Text and the weight of its tokens in the loss."""


class Writer:
    """Draws texts as pieces with weights; everything is a function of the generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.words = [word for word in say.WORDS if len(word) > 2]

    def some(self, count: int) -> list[str]:
        return [self.words[i] for i in self.rng.choice(len(self.words), count, replace=False)]

    def loose(self, words: list[str]) -> str:
        """Words as a context gives them: repeated, with a filler here and there."""
        out: list[str] = []
        for word in words:
            out += [word] * int(self.rng.integers(1, 4))
            if self.rng.random() < 0.3:
                out.append(str(self.rng.choice([",", ".", "the", "a", "and"])))
        return " ".join(out)

    def scene(self) -> Iterator[Piece]:
        """A context with one to three things at times, and a question about them."""
        rng = self.rng
        labels = self.some(int(rng.integers(1, 4)))
        ends = sorted(rng.choice(11, 2 * len(labels), replace=False).tolist())
        times = [(ends[2 * i], ends[2 * i + 1]) for i in range(len(labels))]
        if rng.random() < 0.9:
            parts = [
                f"{self.loose([label])} {a} {b}" if rng.random() < 0.7 else self.loose([label])
                for label, (a, b) in zip(labels, times, strict=True)
            ]
            yield " ".join(parts) + " ", 0.0
        pick = int(rng.integers(len(labels)))
        other = labels[pick] if rng.random() < 0.5 else self.some(1)[0]
        yes = "yes" if other in labels else "no"
        a, b = times[pick]
        question, answer = [
            (say.TAGGING, say.and_list(labels)),
            (say.CAPTIONING, say.caption(labels)),
            (say.WHEN.format(labels[pick]), say.span(a, b)),
            (say.BETWEEN.format(a, b), labels[pick]),
            (say.PRESENT.format(other), yes),
            (say.COUNT, say.NUMBERS[len(labels)]),
            (say.FIRST, labels[0]),
            (say.SHOT, labels[0]),
            (f"what is {rng.choice(['said', 'heard', 'it', 'this'])}?", labels[0]),
        ][int(rng.choice(9, p=[0.24, 0.12, 0.12, 0.1, 0.1, 0.05, 0.07, 0.1, 0.1]))]
        yield question, 0.2
        yield f" {answer}", 2.0

    def pair(self) -> Iterator[Piece]:
        """Two contexts, each with its own text, and a question about both."""
        left, right = self.some(int(self.rng.integers(1, 3))), self.some(int(self.rng.integers(1, 3)))
        thing = left[0]
        if self.rng.random() < 0.5:
            right = [thing, *right[1:]]
        yield self.loose(left) + " ", 0.0
        yield "this is the first clip. ", 0.1
        yield self.loose(right) + " ", 0.0
        if self.rng.random() < 0.5:
            yield say.BOTH.format(thing), 0.2
            yield " yes" if thing in right else " no", 2.0
        else:
            target, place = (left[-1], 0) if self.rng.random() < 0.5 else (right[-1], 1)
            yield say.WHICH.format(target), 0.2
            yield f" {say.PLACES[place]}" if not (target in left and target in right) else " both", 2.0

    def shots(self) -> Iterator[Piece]:
        """Keys and labels drawn at random; a key that occurred before decides the label."""
        keys = [self.some(int(self.rng.integers(1, 3))) for _ in range(int(self.rng.integers(2, 5)))]
        labels = self.some(len(keys))
        seen: set[int] = set()
        for _ in range(int(self.rng.integers(5, 9))):
            number = int(self.rng.integers(len(keys)))
            yield self.loose(keys[number]) + " ", 0.0
            yield say.SHOT, 0.1
            yield f" {labels[number]} ", 3.0 if number in seen else 0.0
            seen.add(number)

    def text(self) -> list[Piece]:
        kind = self.rng.random()
        return list(self.shots() if kind < 0.45 else self.pair() if kind < 0.55 else self.scene())
