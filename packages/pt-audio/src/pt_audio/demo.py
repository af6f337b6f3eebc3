"""`pt-audio demo`: questions about generated sounds, with the built-in models; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pt_core.run.declare.modality import Demo, Modality

COMMON: dict[str, Any] = {
    "data": "builtin:sounds",
    "tasks": ("tagging",),
    "beams": 1,
    "repetition_penalty": 1.0,
    "max_new_tokens": 12,
    "batch_size": 16,
}
CONTENDERS: dict[str, dict[str, Any]] = {
    "projector": {"method": "projector", "lr": 2e-3, "steps": 80, "eval_every": 80},
    "acoustic_apt": {"method": "acoustic_apt", "lr": 2e-3, "dropout": 0.0, "steps": 150, "eval_every": 150},
}


def sounds(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """Name what is heard: a linear map against the Q-former, on clips that were not trained on; then a few answers."""
    from pt_core.run.command.contenders import compare_methods

    short = {"steps": 4, "eval_every": 4, "limit": 24} if fast else {}
    compare_methods(
        modality,
        out,
        {name: {**COMMON, **changes, **short} for name, changes in CONTENDERS.items()},
        intro="builtin:mae_sounds + builtin:lm_sounds -> builtin:sounds: what is heard in a clip of 4 to 9 s? "
        f"{24 if fast else 240} training clips, answers in words",
        next_="pt-audio fit acoustic_apt --data CLIPS/ --backbone lm=hf:Qwen/Qwen2.5-0.5B",
        seeds=seeds,
        metric="exact_match",
        roles=("encoder", "text", "lm"),
        finish=lambda: say_answers(out / "acoustic_apt" / "seed-0" / "predictions" / "test.parquet"),
    )


def say_answers(table: Path, count: int = 4) -> None:
    """Some answers to the question about clips of the test part."""
    import click
    import pandas as pd

    from pt_audio.data import wording

    for row in pd.read_parquet(table).head(count).to_dict("records"):
        click.echo(
            f"{row['id'].partition('#')[0]}  {wording.TAGGING}  {row['predicted']!r}  (it holds: {row['label']})"
        )


DEMOS = (Demo("sounds", "questions about generated sounds that the aligner has not heard", sounds),)
