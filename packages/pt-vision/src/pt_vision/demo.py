"""`pt-vision demo`: methods against baselines on built-in data with the built-in backbone; nothing is downloaded."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click

DIGITS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "epochs": 60},
    "vpt-shallow": {"method": "vpt", "mode": "shallow", "prompt_length": 10},
    "vpt-deep": {"method": "vpt", "mode": "deep", "prompt_length": 10},
    "dvpt": {"method": "dvpt", "prompt_length": 10, "lr": 5e-3},
    "full": {"method": "full", "lr": 3e-4},
}
COMMON: dict[str, Any] = {"data": "builtin:digits", "shots": 16, "batch_size": 32, "epochs": 30, "eval_every": 50}
VPT = {"optimizer": "adamw", "lr": 0.01, "lr_per_256": False, "warmup_epochs": 3}


def digits(out: Path, seeds: int, fast: bool) -> None:
    """16 shots of scanned digits. Writes one run per method and seed below `out`, and a comparison page."""
    from pt_core.run.commands import _check_out, run_fit, say
    from pt_core.run.fit import resolve
    from pt_core.run.report import compare

    from pt_vision.backbones import load_backbone
    from pt_vision.modality import Vision

    modality = Vision()
    _check_out(out)
    say(
        "builtin:vit_glyphs (pretrained on drawn letters and signs, no digits) -> builtin:digits, 16 shots per class, test on 450 images"
    )
    backbone = load_backbone(modality.default_backbone)
    click.echo(f"{'method':<12} {'tuned parameters':>17} {'of backbone':>12} {'test accuracy':>14} {'seconds':>8}")
    runs: list[Path] = []
    for name, changes in DIGITS.items():
        statuses = []
        for seed in range(seeds):
            options = {**COMMON, **(VPT if changes["method"] == "vpt" else {}), **changes, "seed": seed}
            options.update({"epochs": 4, "eval_every": None} if fast else {})
            spec = resolve(modality, options.pop("method"), options)
            folder = out / name / f"seed-{seed}"
            statuses.append(run_fit(modality, spec, folder, backbone, quiet=True))
            runs.append(folder)
        scores = [status["results"]["test"]["accuracy"] for status in statuses]
        spread = f" ± {statistics.stdev(scores):.3f}" if seeds > 1 else ""
        parameters = statuses[0]["parameters"]
        seconds = statistics.mean(status["time"]["fit_seconds"] for status in statuses)
        click.echo(
            f"{name:<12} {parameters['tuned']:>17,} {parameters['share']:>12.2%} {statistics.mean(scores):>8.3f}{spread:<8} {seconds:>6.1f}"
        )
    compare(runs, out / "compare.html")
    click.echo(f"report: {runs[-1] / 'report.html'}; comparison: {out / 'compare.html'}")
    click.echo("next: pt-vision fit vpt --data DIR --backbone timm:vit_small_patch16_224.augreg_in21k --shots 16")
