"""CamVid by day -> dusk, fog and night: source only, DAFormer-style self-training, and CoDA with and without its parts.

    PT_REALDATA=/path/to/data python -m benchmarks.vision.camvid --out runs/camvid

Frames of 180 x 240 are read at 128 x 176. Labelled source: 153 day frames. Unlabelled target: 62 dusk frames as they were filmed; fog and
night over every third day frame of the source list (51 each; formulas in pt_vision.segmentation.data.weather, severity 0.7, a depth that
depends on the row only). Test: 31 dusk frames; every second day test frame (29) as it is, under fog, and at night. Validation, for the
curves only: four day frames under fog and four at night. Backbone: builtin:mit_shapes, pretrained on drawn shapes. Every method takes the
same steps, rate and network; nothing was chosen on the test frames. Finished runs are read, not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pt_vision
from PIL import Image
from pt_core.run.train.rundir import RunDir
from pt_vision.segmentation.data.weather import apply

from benchmarks._harness import finished_run, machine, write

CLASSES = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
    "ignore",
]
SEVERITY = 0.7
SEEDS = (0, 1, 2)
COMMON: dict[str, Any] = {
    "task": "segmentation",
    "resize_rows": 128,
    "resize_columns": 176,
    "steps": 300,
    "batch_size": 2,
    "lr": 1e-3,
    "head": "segformer",
    "head_width": 64,
    "eval_every": 300,
    "warmup_epochs": 0.1,
    "select": False,
}
MARGINS = {"margin_top": 0.0, "margin_bottom": 0.0, "margin_side": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "source only": {"method": "source_only"},
    "self-training": {"method": "self_training", **MARGINS},
    "CoDA without chain": {"method": "coda", "chain": False, **MARGINS},
    "CoDA without SAVPT": {"method": "coda", "savpt": False, **MARGINS},
    "CoDA": {"method": "coda", **MARGINS},
}


def prepare(source: Path, out: Path) -> None:
    """Write the parts as images/CONDITION/... and masks/CONDITION/... below `out`, once."""
    if (out / "classes.txt").is_file():
        return
    frames: dict[str, list[tuple[str, Image.Image, Image.Image]]] = {}
    with tarfile.open(source / "images.tar") as images, tarfile.open(source / "labels.tar") as labels:
        for name in sorted(images.getnames()):
            if name.endswith(".jpg"):
                split, frame = name.removesuffix(".jpg").split("/")
                picture, mask = images.extractfile(name), labels.extractfile(name.replace(".jpg", ".png"))
                assert picture is not None
                assert mask is not None
                frames.setdefault(split, []).append(
                    (frame, Image.open(picture).convert("RGB"), Image.open(mask).copy())
                )

    def put(
        part: str, condition: str, chosen: list[tuple[str, Image.Image, Image.Image]], labelled: bool = True
    ) -> None:
        for number, (frame, picture, mask) in enumerate(chosen):
            if condition in ("fog", "night"):
                rng = np.random.default_rng([number, len(part), len(condition)])
                picture = Image.fromarray(apply(condition, np.asarray(picture), SEVERITY, rng))
            for kind, image in (("images", picture), *((("masks", mask),) if labelled else ())):
                path = out / part / kind / condition / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)

    put("train", "day", frames["train_day"])
    put("target", "dusk", frames["target_dusk_train"], labelled=False)
    put("test", "dusk", frames["target_dusk_test"])
    put("test", "day", frames["test_day"][::2])
    for condition in ("fog", "night"):
        put("target", condition, frames["train_day"][::3], labelled=False)
        put("test", condition, frames["test_day"][::2])
        put("val", condition, frames["val_day"][::9])
    (out / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the prepared frames and of the runs")
    parser.add_argument("--only", nargs="*", choices=list(METHODS), help="some of the methods")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    data = args.out / "data"
    prepare(Path(os.environ["PT_REALDATA"]) / "camvid", data)
    rows = []
    chosen = {name: own for name, own in METHODS.items() if not args.only or name in args.only}
    for seed in SEEDS:  # seed by seed, so that a stopped run has whole comparisons
        for name, own in chosen.items():
            finished_run(
                pt_vision.fit,
                args.out / name.replace(" ", "-").lower() / f"seed-{seed}",
                {**COMMON, **own, "data": str(data), "seed": seed},
            )
            print(name, seed, flush=True)
    for name, own in chosen.items():
        found: dict[str, list[float]] = {}
        seconds: list[float] = []
        sure: list[float] = []
        for seed in SEEDS:
            folder = args.out / name.replace(" ", "-").lower() / f"seed-{seed}"
            status = finished_run(pt_vision.fit, folder, {**COMMON, **own, "data": str(data), "seed": seed})
            seconds.append(status["time"]["fit_seconds"])
            late = [
                line
                for line in RunDir(folder).metrics()
                if line["split"] == "train" and line["step"] > COMMON["steps"] * 2 / 3
            ]
            sure += [line["confident"] for line in late if "confident" in line]
            for key, value in status["results"]["test"].items():
                found.setdefault(key, []).append(value)
        scores = {
            key: {
                "mean": round(statistics.mean(v), 4),
                "std": round(statistics.stdev(v), 4),
                "seeds": [round(x, 4) for x in v],
            }
            for key, v in found.items()
        }
        row = {"method": name, "seconds": round(statistics.mean(seconds), 1), "test": scores}
        rows.append(row | ({"confident": round(statistics.mean(sure), 3)} if sure else {}))
        print(f"{name:<20}", "  ".join(f"{k} {v['mean']:.3f} ± {v['std']:.3f}" for k, v in scores.items()), flush=True)
    content = {"machine": machine(), "seeds": list(SEEDS), "options": COMMON, "severity": SEVERITY}
    print(json.dumps(str(write("vision_camvid", content, rows, args.results))))


if __name__ == "__main__":
    main()
