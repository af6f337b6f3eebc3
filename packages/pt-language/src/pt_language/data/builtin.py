"""Built-in text, from modules of the standard library that the built-in model never read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pt_language.data.corpus import HELD_OUT, module_sentences, window
from pt_language.data.places import check_builtin

if TYPE_CHECKING:
    import pandas as pd

NOUNS = {"address": "function", "message": "character", "thread": "time", "turtle": "state"}
MODULES = {"asyncio": "function", "decimal": "character", "email": "time", "turtle": "state"}
"""Class -> the word that stands for it; none of these words was a label while the built-in model was trained."""


def builtin(name: str) -> dict[str, pd.DataFrame]:
    """Built-in text by name: 60 test, 40 validation and up to 100 training rows per class."""
    check_builtin(name)
    import pandas as pd

    if name == "modules":
        texts = {label: module_sentences(tuple(MODULES))[module] for module, label in MODULES.items()}
    else:
        pool = [text for found in module_sentences(HELD_OUT).values() for text in found]
        texts = {}
        for noun, label in NOUNS.items():
            others = [other for other in NOUNS if other != noun]
            fitting = [t for t in pool if noun in t.lower() and not any(other in t.lower() for other in others)]
            texts[label] = [window(text, noun, 8) for text in fitting]
    parts: dict[str, list[dict[str, str]]] = {"train": [], "val": [], "test": []}
    for label, found in texts.items():
        distinct = list(dict.fromkeys(" ".join(text.split()[:20]) for text in found))
        room = len(distinct)
        test, val = min(60, room // 3), min(40, room // 5)
        for number, text in enumerate(distinct[:200]):
            role = "test" if number < test else "val" if number < test + val else "train"
            parts[role].append({"text": text, "label": label})
    return {role: pd.DataFrame(rows) for role, rows in parts.items()}
