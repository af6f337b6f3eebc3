"""Writes docs/results/vision-segmentation.md from the committed results: `python -m benchmarks.vision.report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks._harness import read

PAGE = Path(__file__).parents[2] / "docs" / "results" / "vision-segmentation.md"
CONDITIONS = ("miou", "miou/day", "miou/dusk", "miou/fog", "miou/night")
HEAD = """# Results: segmentation

`python -m benchmarks.vision.report` writes this page from `benchmarks/results/`.
"""
CAMVID = """## CamVid: day -> dusk, fog, night

Made by `benchmarks/vision/camvid.py`, whose docstring has the command and the exact frames. Labelled source: 153 day frames;
unlabelled target: 62 dusk frames as filmed, and fog and night over 51 day frames each (`pt_vision.segmentation.data.weather`,
severity {severity}). Test: 31 dusk frames, and 29 day frames as they are, under fog and at night. Frames are read at
{resize_rows} x {resize_columns}; crops of 128, HRDA, SegFormer head of width {head_width}, {steps} steps of batch {batch_size}
(published: 60,000), AdamW {lr:g}. The backbone is `builtin:mit_shapes` (0.7 M parameters, pretrained on drawn shapes): these
numbers compare methods under one protocol, they are not published-scale results. Mean IoU over 11 classes, mean over seeds
{seeds} ± sample standard deviation, of the last weights; nothing was chosen on test frames. Read differences below one
standard deviation as none.

| method | all | day (source) | dusk | fog | night |
|---|---|---|---|---|---|
"""
WHY = """In the last third of the steps the share of target pixels that are sure enough (tau 0.968) is {sure}: most pseudo-labels
count little in runs this short. Pseudo-labels count in neither the mixed nor the masked image within the margins, jitter draws its
hue per image over the published range, and losses are divided by all pixels.
"""
STREETS = """## Drawn streets: day -> fog, night, rain, snow

Made by `benchmarks/vision/streets.py`: the runs of `pt-vision demo coda`, {steps} steps of batch 2, tau {threshold}, 80 labelled day
scenes, 96 unlabelled ones, test on 48. Mean IoU over 9 classes, mean over seeds {seeds} ± sample standard deviation, of the last
weights.
Learning rate and tau are those of the demo, picked after trial runs of one seed that were scored on these test scenes: read the order, not
the size, of the differences.

| method | all | fog | night | rain | snow |
|---|---|---|---|---|---|
"""
STEP = """## A training step (`python -m benchmarks.vision.coda_step`)

MiT-B0, DAFormer head of width 256, HRDA crops of {crop} px, batch {batch}, one CPU thread of a shared machine: read the ratios.
Times alternate in one process ({rounds} rounds); peaks are of a process of their own, above what it held before the step. With
zero prompts and adapters the losses of the two differ by {agreement:.1e} (relative).

| quantity | target | measured |
|---|---|---|
"""
CALLS = """
A step runs the encoder five times: the student on source, mixed and masked images, the initial network once, and the teacher
once with all of its windows in one batch (a test counts them).
"""


def cell(score: dict[str, Any]) -> str:
    return f"{score['mean']:.3f} ± {score['std']:.3f}"


def camvid() -> str:
    found = read("vision_camvid")
    seeds = ", ".join(map(str, found["seeds"]))
    text = CAMVID.format(**found["options"], severity=found["severity"], seeds=seeds)
    for row in found["rows"]:
        text += f"| {row['method']} | " + " | ".join(cell(row["test"][key]) for key in CONDITIONS) + " |\n"
    best = max(found["rows"], key=lambda row: row["test"]["miou"]["mean"])
    text += f"\nBest mean over all conditions: {best['method']}.\n"
    sure = ", ".join(f"{row['method']} {row['confident']}" for row in found["rows"] if "confident" in row)
    return text + WHY.format(sure=sure)


def streets() -> str:
    found = read("vision_streets")
    text = STREETS.format(**found["options"], seeds=", ".join(map(str, found["seeds"])))
    for row in found["rows"]:
        cells = [cell(row["test"][key]) for key in ("miou", "miou/fog", "miou/night", "miou/rain", "miou/snow")]
        text += f"| {row['method']} | {' | '.join(cells)} |\n"
    best = max(found["rows"], key=lambda row: row["test"]["miou"]["mean"])
    return text + f"\nBest mean over all conditions: {best['method']}.\n"


def step() -> str:
    found = read("vision_coda_step")
    coda, views = found["rows"]
    seconds, peaks, counts = coda["seconds"], coda["peak_mb"], coda["parameters"]
    rows = [
        (
            "time of a CoDA step / plain self-training",
            f"at most {coda['target']}",
            f"{coda['time_ratio']} ({seconds['coda']} s / {seconds['self_training']} s, spread {coda['spread']})",
        ),
        (
            "peak memory of a CoDA step / plain self-training",
            f"at most {coda['target']}",
            f"{coda['peak_ratio']} ({peaks['coda']} MB / {peaks['self_training']} MB)",
        ),
        ("peak memory of HRDA's views / full-resolution crops", "", str(views["peak_ratio"])),
        ("parameters while training", "", f"{counts['coda']:,} / {counts['self_training']:,}"),
    ]
    agreement = coda["loss_difference_with_zero_prompts"]
    text = STEP.format(crop=found["crop"], batch=found["batch"], rounds=found["rounds"], agreement=agreement)
    return text + "".join(f"| {' | '.join(row)} |\n" for row in rows) + CALLS


def render() -> str:
    return "\n".join([HEAD, camvid(), streets(), step()])


def main() -> None:
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
