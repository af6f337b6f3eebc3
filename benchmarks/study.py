"""Sixteen cells of a study against sixteen `fit` commands: CPU time of whole processes, and whether they tune the same bytes.

    python -m benchmarks.study [--case linear --case vpt] [--rounds 1]

Four learning rates x four seeds on the built-in digits, on one thread, from an empty feature cache on both sides, which the commands
share from the first one on as the cells do.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks._harness import RESULTS, load, machine, read, write
from benchmarks.startup import cpu_seconds

RATES = (0.3, 0.1, 0.03, 0.01)
SEEDS = (0, 1, 2, 3)
OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {"device": "cpu", "shots": 16},
    "linear, all images": {"device": "cpu"},
    "vpt": {"device": "cpu", "shots": 16, "epochs": 3},
}
"""Case -> options; its first word is the method."""
TARGETS = {"linear": 1 / 3, "linear, all images": 1 / 3, "vpt": 0.6}
DATA = "builtin:digits"


def commands(script: Path, case: str, folder: Path) -> float:
    """CPU seconds of the sixteen commands; their runs lie in FOLDER/fits."""
    method = case.partition(",")[0]
    flags = [word for name, value in OPTIONS[case].items() for word in (f"--{name}", str(value))]
    total = 0.0
    for rate in RATES:
        for seed in SEEDS:
            out = ["--out", f"fits/{method}-lr={rate}-seed={seed}"]
            words = ["fit", method, "--data", DATA, "--lr", str(rate), "--seed", str(seed), *flags, *out]
            total += cpu_seconds([str(script), *words], folder)
    return total


def study(script: Path, case: str, folder: Path) -> float:
    """CPU seconds of the study; its cells lie in FOLDER/study/cells."""
    content = {
        "methods": [case.partition(",")[0]],
        "data": DATA,
        "options": OPTIONS[case],
        "grid": {"lr": list(RATES)},
        "seeds": list(SEEDS),
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return cpu_seconds([str(script), "study", "study.yaml", "--out", "study"], folder)


def equal(folder: Path) -> bool:
    """Whether every cell tuned the bytes of its command."""
    pairs = [(run, folder / "study" / "cells" / run.name) for run in sorted((folder / "fits").iterdir())]
    files = [(one / "tuned" / "weights.safetensors", other / "tuned" / "weights.safetensors") for one, other in pairs]
    return len(pairs) == len(RATES) * len(SEEDS) and all(one.read_bytes() == other.read_bytes() for one, other in files)


def measure(script: Path, case: str, rounds: int) -> dict[str, Any]:
    ratios, apart, together = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            apart.append(commands(script, case, folder))
            shutil.rmtree(folder / "cache", ignore_errors=True)
            together.append(study(script, case, folder))
            ratios.append(together[-1] / apart[-1])
            if not equal(folder):
                raise RuntimeError(f"cells of {case} tuned other bytes than `fit`")
    return {
        "method": case,
        "cells": len(RATES) * len(SEEDS),
        "fits_s": round(statistics.median(apart), 1),
        "study_s": round(statistics.median(together), 1),
        "ratio": round(statistics.median(ratios), 3),
        "target": round(TARGETS[case], 2),
        "equal_bytes": True,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(OPTIONS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    before = load()
    script = Path(sys.executable).parent / "pt-vision"
    rows = [measure(script, case, args.rounds) for case in args.case or OPTIONS]
    for row in rows:
        print(
            f"{row['method']:8} {row['cells']} fits {row['fits_s']} s  study {row['study_s']} s  ratio {row['ratio']}"
        )
    if args.out is None and (RESULTS / "study.json").exists():  # cases that were not asked for keep their rows
        measured = {row["method"] for row in rows}
        rows = [*(row for row in read("study")["rows"] if row["method"] not in measured), *rows]
        rows.sort(key=lambda row: list(OPTIONS).index(row["method"]))
    settings = {"rates": RATES, "seeds": SEEDS, "options": OPTIONS, "rounds": args.rounds}
    print(write("study", {"machine": machine(), "load": [before, load()], "settings": settings}, rows, args.out))


if __name__ == "__main__":
    main()
