"""`pt-vision demo`: methods against baselines on built-in data with the built-in backbone; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pt_core.run.declare.modality import Demo, Modality

DIGITS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "epochs": 40},
    "vpt-shallow": {"method": "vpt", "mode": "shallow", "prompt_length": 10},
    "vpt-deep": {"method": "vpt", "mode": "deep", "prompt_length": 10},
    "dvpt": {"method": "dvpt", "prompt_length": 10, "lr": 5e-3},
    "full": {"method": "full", "lr": 3e-4, "epochs": 10},
}
COMMON: dict[str, Any] = {"data": "builtin:digits", "shots": 16, "batch_size": 32, "epochs": 20, "eval_every": 50}
VPT = {"lr": 1.0, "warmup_epochs": 3}
"""SGD as published; of 1, 5 and 25 (scaled by batch / 256) the rate that was best on validation."""


def runs(fast: bool) -> dict[str, dict[str, Any]]:
    """Name -> method and options of the runs that are compared."""
    short = {"epochs": 4, "eval_every": 20} if fast else {}
    return {
        name: {**COMMON, **(VPT if changes["method"] == "vpt" else {}), **changes, **short}
        for name, changes in DIGITS.items()
    }


def digits(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """16 shots of scanned digits. Writes one run per method and seed below `out`, and a comparison page."""
    from pt_core.run.command.contenders import compare_methods

    compare_methods(
        modality,
        out,
        runs(fast),
        intro="builtin:vit_glyphs (pretrained on drawn letters and signs, no digits) -> builtin:digits, 16 shots per class, "
        "test on 450 images",
        next_="pt-vision fit vpt --data DIR --backbone timm:vit_small_patch16_224.augreg_in21k --shots 16",
        seeds=seeds,
    )


DEMOS = (
    Demo("digits", "scanned digits, 16 shots per class: prompts against linear probing and full fine-tuning", digits),
)
