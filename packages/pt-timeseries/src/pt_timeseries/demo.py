"""`pt-timeseries demo`: POND against the baselines on generated subjects with the built-in encoder; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pt_core.run.declare.modality import Demo, Modality

CONTENDERS: dict[str, dict[str, Any]] = {
    "source-only": {"method": "source_only", "epochs": 3},
    "common-prompt": {"method": "common_prompt", "epochs": 8},
    "pond": {"method": "pond", "epochs": 8},
    "coral": {"method": "coral", "epochs": 4},
    "codats": {"method": "codats", "epochs": 4},
    "full-on-shots": {"method": "full", "epochs": 30},
}
FAST = ("source-only", "pond", "full-on-shots")
"""Contenders of the short version."""
COMMON: dict[str, Any] = {"data": "builtin:twins", "target_shots": 5, "eval_every": 50}


def motion(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """Subject t, whose body resembles subject s3's. Writes one run per method and seed below `out`, and a comparison page."""
    from pt_core.run.command.contenders import compare_methods

    short = {"steps": 6, "eval_every": None} if fast else {}
    chosen = {name: options for name, options in CONTENDERS.items() if not fast or name in FAST}
    compare_methods(
        modality,
        out,
        {name: {**COMMON, **options, **short} for name, options in chosen.items()},
        intro="builtin:patch_motion (pre-trained on other generated subjects) -> builtin:twins: 6 labelled source subjects, target t "
        "with 5 labelled windows per class; t has the body of s3",
        next_="pt-timeseries pretrain --data DATA --target NAME --out encoder.safetensors",
        seeds=seeds,
        metric="macro_f1",
    )


DEMOS = (
    Demo(
        "motion", "activities of new subjects: POND against common prompt, source only, CORAL, CoDATS and full", motion
    ),
)
