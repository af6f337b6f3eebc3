"""`pt-pointcloud demo`: methods against baselines on generated shapes with the built-in backbone; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "epochs": 60},
    "vpt": {"method": "vpt"},
    "idpt": {"method": "idpt"},
    "full": {"method": "full"},
}
COMMON: dict[str, Any] = {
    "data": "builtin:shapes",
    "shots": 10,
    "batch_size": 20,
    "epochs": 15,
    "eval_every": 200,
    "warmup_epochs": 2,
}
DATA: dict[str, dict[str, Any]] = {
    "clean": {},
    "corrupted": {"corrupt": ("missing",), "severity": 0.5},
}


def shapes(out: Path, seeds: int, fast: bool) -> None:
    """10 shots of 12 generated classes, clean and with half of every shape missing. Writes a run per method, data and seed below `out`."""
    from pt_core.run.demo import compare_methods

    from pt_pointcloud.backbones import load_backbone
    from pt_pointcloud.modality import PointClouds

    modality = PointClouds()
    short = {"epochs": 2, "shots": 4, "warmup_epochs": 0, "eval_every": None} if fast else {}
    contenders = {
        f"{name}/{kind}": {**COMMON, **changes, **corruption, **short}
        for kind, corruption in DATA.items()
        for name, changes in METHODS.items()
    }
    compare_methods(
        modality,
        out,
        contenders,
        intro="builtin:point_mae_shapes (Point-MAE on generated shapes of other classes) -> builtin:shapes, 12 classes, "
        "10 shots per class, test on 240 shapes; corrupted: the half of every shape around a random point is missing, in training and test",
        next_="pt-pointcloud fit idpt --data DIR --backbone pointmae:scanobjectnn --weights FILE",
        seeds=seeds,
        backbones={"backbone": load_backbone(modality.default_backbone("backbone"))},
    )


def parts(out: Path, seeds: int, fast: bool) -> None:
    """Part segmentation of generated shapes: a linear head on frozen features against IDPT's prompts."""
    from pt_core.run.demo import compare_methods

    from pt_pointcloud.backbones import load_backbone
    from pt_pointcloud.modality import PointClouds

    modality = PointClouds()
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
        backbones={"backbone": load_backbone(modality.default_backbone("backbone"))},
    )
