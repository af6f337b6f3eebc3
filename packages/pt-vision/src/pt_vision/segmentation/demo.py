"""`pt-vision demo coda` and `demo masks`: segmentation on drawn streets with the built-in backbone; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pt_core.run.declare.modality import Demo, Modality

COMMON: dict[str, Any] = {
    "data": "builtin:streets",
    "task": "segmentation",
    "head": "segformer",
    "head_width": 64,
    "batch_size": 2,
    "lr": 1e-3,
    "warmup_epochs": 0.1,
    "select": False,
}
"""The built-in backbone is young: it learns at a higher rate than published. No weights are selected by labelled target scenes."""
FAST = {"data": "builtin:streets_small"}
TARGET = {"margin_top": 0.0, "margin_bottom": 0.0, "margin_side": 0.0, "threshold": 0.8}
"""Drawn frames have no bonnet at their lower margin, and a network that is trained for a minute is seldom sure: tau 0.8, not 0.968."""


def runs(fast: bool) -> dict[str, dict[str, Any]]:
    """Name -> method and options of the runs that are compared."""
    steps = 8 if fast else 150
    common = {**COMMON, "steps": steps, "eval_every": steps // 2, **(FAST if fast else {})}
    return {
        "source only": {**common, "method": "source_only"},
        "self-training": {**common, **TARGET, "method": "self_training"},
        "coda": {**common, **TARGET, "method": "coda"},
    }


def coda(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """Labelled drawn streets by day, unlabelled ones in fog, rain, snow and at night. Writes one run per method and seed below `out`."""
    from pt_core.run.command.contenders import compare_methods

    from pt_vision.segmentation.data.streets import SIZES, SMALL

    sizes = SMALL if fast else SIZES
    compare_methods(
        modality,
        out,
        runs(fast),
        intro=f"builtin:mit_shapes (made on drawn shapes) -> drawn streets: {sizes['train']} labelled scenes by day, {sizes['target']} "
        f"unlabelled ones in fog, rain, snow and at night; test on {sizes['test']} scenes, mean IoU over all conditions and per condition",
        next_="pt-vision fit coda --task segmentation --data train=DAY --data target=ADVERSE --data test=LABELLED "
        "--backbone mit:b5 --weights mit_b5.pth",
        seeds=seeds,
        metric="miou",
        further=("miou/fog", "miou/night", "miou/rain", "miou/snow"),
        roles=("encoder",),
    )


MASKS: dict[str, dict[str, Any]] = {
    "linear_seg": {"method": "linear_seg", "lr": 5e-3},
    "dvpt_seg": {"method": "dvpt_seg", "lr": 5e-3},
    "full": {"method": "source_only", "hrda": False, "head_width": 48, "lr": 1e-3},
}


def mask_runs(fast: bool) -> dict[str, dict[str, Any]]:
    steps = 8 if fast else 100
    common = {
        "data": "builtin:streets_small" if fast else "builtin:streets",
        "task": "segmentation",
        "weather_severity": 0.0,
        "batch_size": 6,
        "augment": "flip",
    }
    return {name: {**common, "steps": steps, "eval_every": steps, **own} for name, own in MASKS.items()}


def masks(modality: Modality, out: Path, seeds: int, fast: bool) -> None:
    """DVPT's segmentation variant on a frozen segmenter, against a linear probe and full fine-tuning; drawn streets without weather."""
    from pt_core.run.command.contenders import compare_methods

    compare_methods(
        modality,
        out,
        mask_runs(fast),
        intro="builtin:mit_shapes (a small SegFormer pretrained on drawn shapes) -> drawn streets without weather",
        next_="pt-vision fit dvpt_seg --task segmentation --data DIR --backbone segformer:b4 --weights segformer_b4.pth",
        seeds=seeds,
        metric="miou",
        roles=("encoder",),
    )


DEMOS = (
    Demo("coda", "drawn streets by day -> fog, rain, snow, night: source only, self-training, CoDA", coda),
    Demo("masks", "few labelled street scenes: DVPT's segmentation variant against a linear probe", masks),
)
