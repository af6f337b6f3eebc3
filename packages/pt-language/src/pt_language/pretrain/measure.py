"""In-context accuracy on held-out topics and label words."""

from __future__ import annotations

import random
from typing import Any

import torch

from pt_language.pretrain.episodes import KINDS, TEMPLATES, Episodes, crop
from pt_language.pretrain.material import Material


@torch.no_grad()
def in_context_accuracy(
    model: Any, episodes: Episodes, classes: int, shots: int, rounds: int, kind: str = "module"
) -> float:
    """Share of right labels at the end of episodes with `shots` examples of each class; the label's first token decides."""
    rng = random.Random(0)
    right = 0
    before, between = TEMPLATES[0][0].split("{}")[:2]
    for _ in range(rounds):
        groups = [
            rng.sample(texts, shots + 1) if len(texts) > shots else texts * (shots + 1)
            for texts in episodes.texts(kind, classes, (6, 12), rng)
        ]
        names = rng.sample(episodes.labels, classes)
        while len({episodes.encode(f" {name}")[0] for name in names}) < classes:
            names = rng.sample(episodes.labels, classes)
        shown = [(text, names[c]) for c, texts in enumerate(groups) for text in texts[:shots]]
        rng.shuffle(shown)
        gold = rng.randrange(classes)
        parts = [f"{before}{crop(text, 20, rng)}{between} {name}".replace("  ", " ") for text, name in shown]
        tokens: list[int] = []
        for part in parts:
            tokens += [*episodes.encode(part), 0]
        tokens += episodes.encode(f"{before}{crop(groups[gold][shots], 20, rng)}{between}".rstrip())
        logits = model(torch.tensor([tokens])).logits[0, -1]
        firsts = [episodes.encode(f" {name}")[0] for name in names]
        right += int(logits[firsts].argmax()) == gold
    return right / rounds


def measure(model: Any, material: Material, rounds: int) -> dict[str, float]:
    """In-context accuracy on held-out topics and label words."""
    names = {"copy": "same text", "word": "shared word", "module": "same module"}
    return {
        f"held out, {names[kind]}, {classes} classes, {shots} shots each": in_context_accuracy(
            model, material.unseen, classes, shots, rounds, kind
        )
        for kind in KINDS
        for classes, shots in ((2, 1), (2, 4), (4, 2))
    }
