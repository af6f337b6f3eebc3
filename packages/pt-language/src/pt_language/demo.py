"""`pt-language demo`: prompts against baselines on built-in text with the built-in model; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pt_core.run.declare.modality import Demo, Modality

COMMON: dict[str, Any] = {"data": "builtin:words", "shots": 8, "batch_size": 16, "eval_every": 20}
WORDS: dict[str, dict[str, Any]] = {
    "zero-shot": {"method": "icl", "examples": 0},
    "icl": {"method": "icl", "examples": 32},
    "prompt_tuning": {"method": "prompt_tuning", "prompt_length": 20, "lr": 0.05, "steps": 60},
    "prefix": {"method": "prefix", "prompt_length": 10, "init": "vocabulary", "lr": 0.02, "steps": 60},
    "p_tuning": {"method": "p_tuning", "prompt_length": 10, "steps": 60, "lr": 3e-3},
    "iapt": {"method": "iapt", "bottleneck": 32, "lr": 5e-3, "steps": 60, "bilevel": False, "warmup_epochs": 0},
    "cpt": {"method": "cpt", "steps": 20, "epsilon_input": 2.0, "epsilon_format": 2.0, "lr": 0.02},
    "lora": {"method": "lora", "rank": 4, "steps": 60, "lr": 5e-3},
    "full": {"method": "full", "lr": 1e-3, "steps": 60},
}

LEFT_OUT = ("p_tuning", "full")
"""Contenders that --fast leaves out."""


def words(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """8 texts per class from modules of Python's documentation that the built-in model never read."""
    from pt_core.run.command.contenders import compare_methods

    contenders = {}
    for name, changes in WORDS.items():
        if not fast:
            contenders[name] = {**COMMON, **changes}
        elif name not in LEFT_OUT:
            short = {"steps": 4, "eval_every": None} if "steps" in changes else {}
            contenders[name] = {**COMMON, **changes, **short, "limit": 60}
    intro = "builtin:lm_docs -> builtin:words: which of 4 nouns is a piece of unseen documentation about? 8 shots per class, 4 classes"
    compare_methods(
        modality,
        out,
        contenders,
        intro=intro + (" (--fast: 4 steps each, which shows that all run, not what they reach)" if fast else ""),
        next_="pt-language fit prompt_tuning --data reviews.csv --backbone hf:Qwen/Qwen2.5-0.5B",
        seeds=seeds,
    )


DEMOS = (
    Demo(
        "words",
        "pieces of Python's documentation by noun: prompts against in-context learning, LoRA and full tuning",
        words,
    ),
)
