"""`pt-pointcloud demo`: methods against baselines on generated shapes with the built-in backbone; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pt_core.run.declare.modality import Demo, Modality

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "epochs": 60, "lr": 0.01, "warmup_epochs": 0},
    "vpt": {"method": "vpt"},
    "idpt": {"method": "idpt"},
    "full": {"method": "full", "epochs": 6, "lr": 1e-3},
}
COMMON: dict[str, Any] = {
    "data": "builtin:shapes",
    "shots": 8,
    "batch_size": 16,
    "epochs": 12,
    "lr": 3e-3,
    "warmup_epochs": 1,
    "eval_every": 36,
}
FAST: dict[str, Any] = {"ways": 4, "queries": 8, "val_fraction": 0.1}
"""Four of the classes and few test shapes; without missing parts."""
DATA: dict[str, dict[str, Any]] = {
    "clean": {},
    "missing": {"corrupt": ("missing",), "severity": 0.5},
}


def shapes(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """8 shots of 12 generated classes, clean and with half of every shape missing. Writes a run per method, data and seed below `out`."""
    from pt_core.run.command.contenders import compare_methods

    contenders = {
        f"{name}/{kind}": {**COMMON, **changes, **corruption, **(FAST if fast else {})}
        for kind, corruption in list(DATA.items())[: 1 if fast else None]
        for name, changes in METHODS.items()
    }
    tested = "4 classes, test on 32 shapes" if fast else "12 classes, test on 240 shapes"
    compare_methods(
        modality,
        out,
        contenders,
        intro=f"builtin:point_mae_shapes (Point-MAE on generated shapes of other classes) -> builtin:shapes, {tested}, 8 shots per "
        "class; missing: the half of every shape around a random point is gone, in training and test",
        next_="pt-pointcloud fit idpt --data DIR --backbone pointmae:scanobjectnn --weights FILE",
        seeds=seeds,
    )


def parts(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """Part segmentation of generated shapes: a linear head on frozen features against IDPT's prompts."""
    from pt_core.run.command.contenders import compare_methods

    common = {
        "data": "builtin:shapes",
        "task": "parts",
        "shots": 2 if fast else 8,
        "batch_size": 12,
        "epochs": 2 if fast else 12,
    }
    contenders = {"linear_seg": {**common, "method": "linear_seg"}, "idpt_seg": {**common, "method": "idpt_seg"}}
    compare_methods(
        modality,
        out,
        contenders,
        intro="builtin:point_mae_shapes -> parts of builtin:shapes (34 parts of 12 categories), test on 240 shapes",
        next_="pt-pointcloud fit idpt_seg --task parts --data DIR --backbone pointmae:shapenetpart --weights FILE",
        seeds=seeds,
        metric="instance_miou",
    )


DEMOS = (
    Demo("shapes", "generated shapes with and without missing parts: linear, VPT, IDPT and full fine-tuning", shapes),
    Demo("parts", "part segmentation of generated shapes", parts),
)
