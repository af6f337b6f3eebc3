"""The runs of `pt-vision demo coda` over three seeds, with the chain and the prompts left out in turn: drawn streets, by condition.

    python -m benchmarks.vision.streets --out runs/streets

Finished runs are read, not repeated. Writes results/vision_streets.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import pt_vision
from pt_core.run.train.rundir import RunDir
from pt_vision.segmentation.demo import runs

from benchmarks._harness import machine, write

SEEDS = (0, 1, 2)


def contenders() -> dict[str, dict[str, Any]]:
    own = runs(fast=False)
    return {
        **own,
        "coda without chain": {**own["coda"], "chain": False},
        "coda without SAVPT": {**own["coda"], "savpt": False},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", nargs="*", choices=list(contenders()), help="some of the methods")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    backbone = pt_vision.load_backbone("builtin:mit_shapes")
    chosen = {name: own for name, own in contenders().items() if not args.only or name in args.only}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for seed in SEEDS:  # seed by seed, so that a stopped run has whole comparisons
        for name, own in chosen.items():
            folder = args.out / name.replace(" ", "-") / f"seed-{seed}"
            status = RunDir(folder).status()
            if status.get("status") != "finished":
                values = {**own, "seed": seed}
                pt_vision.fit(values.pop("method"), backbone=backbone, out=folder, quiet=True, **values)
                status = RunDir(folder).status()
            found[name].append(status["results"]["test"])
            print(name, seed, status["results"]["test"], flush=True)
    rows = []
    for name, scores in found.items():
        test = {}
        for key in scores[0]:
            values = [score[key] for score in scores]
            mean, std = statistics.mean(values), statistics.stdev(values)
            test[key] = {"mean": round(mean, 4), "std": round(std, 4), "seeds": [round(v, 4) for v in values]}
        rows.append({"method": name, "test": test})
    options = runs(fast=False)["coda"]
    print(write("vision_streets", {"machine": machine(), "seeds": list(SEEDS), "options": options}, rows, args.results))


if __name__ == "__main__":
    main()
