"""`pt-graph demo`: methods on generated molecules with the built-in backbone; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pt_core.run.declare.modality import Demo, Modality

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "head_layers": 2, "epochs": 100},
    "gpf": {"method": "gpf", "head_layers": 2, "epochs": 60},
    "gpf-plus": {"method": "gpf_plus", "head_layers": 2, "epochs": 60},
    "relief": {
        "method": "relief",
        "head_layers": 2,
        "epochs": 8,
        "warmup": 60,
        "head_steps": 10,
        "z_max": 0.5,
        "alpha_d": 1.0,
        "minibatch": 64,
        "critic": "pooled",
        "select_from": 4,
        "eval_every": 4,
    },
    "full": {"method": "full", "head_layers": 2, "epochs": 60},
}
COMMON: dict[str, Any] = {"data": "builtin:molecules", "total_shots": 50, "eval_every": 20}
FAST = {"relief": 1}


def molecules(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """50 shots of generated molecules. Writes one run per method and seed below `out`, and a comparison page."""
    from pt_core.run.command.contenders import compare_methods

    contenders = {}
    for name, changes in METHODS.items():
        short = {"epochs": FAST.get(name, 8), "eval_every": None, "max_val": 60, "max_test": 100} if fast else {}
        contenders[name] = {**COMMON, **changes, **short}
    compare_methods(
        modality,
        out,
        contenders,
        intro="builtin:gin_molecules (pretrained without labels on other generated molecules) -> builtin:molecules, 50 training molecules, "
        "two properties, test on 200",
        next_="pt-graph fit relief --data molecules.csv --total-shots 50 --backbone chem:gcn --weights chem_gcn.safetensors",
        seeds=seeds,
        metric="roc_auc",
    )


DEMOS = (
    Demo(
        "molecules",
        "generated molecules, 50 shots: feature prompts against a linear probe and full fine-tuning",
        molecules,
    ),
)
