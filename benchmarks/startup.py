"""Time to the first answer: CPU seconds of whole processes that predict one sample, or fit with one step, by the built-in networks.

    python -m benchmarks.startup [--rounds 5] [--base DIR]

A command is compared with the import of what its package builds on, which every program over the same library waits for. Processes
run one after the other in turning order, on one thread; user and system time are counted, so that other work on the machine matters
little. Compiled bytecode is at hand, as from the second call on. `--base` is the checkout of an earlier build with an environment of
its own in .venv; its commands run beside today's.
"""

from __future__ import annotations

import argparse
import csv
import operator
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._harness import Times, alternate, load, machine, write

TARGETS = {"predict": 1.15, "fit": 1.3}
"""Largest ratio to the import that the build aims at."""
ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Case:
    """What a package is asked to do, in a folder made by `make_inputs`."""

    upstream: str
    """Import of the library that its built-in network comes from."""
    fit: tuple[str, ...]
    predict: tuple[str, ...]
    also: tuple[str, ...] = ()
    """Further imports to show beside it."""


CASES = {
    "vision": Case("import timm", ("vpt", "--data", "photos"), ("photos/dark/0.png",)),
    "language": Case(
        "from transformers import LlamaForCausalLM",
        ("prompt_tuning", "--data", "reviews.csv", "--template", "review: {text} sentiment: {sentiment}"),
        ("a fine film",),
    ),
    "graph": Case("import torch_geometric.nn", ("gpf", "--data", "molecules.csv"), ("CCO",)),
    "audio": Case(
        "from transformers import LlamaForCausalLM",  # its language model; the sounds themselves need torch alone
        ("acoustic_apt", "--data", "clips"),
        ("clips/dark/0.wav", "--ask", "what are the sound events?"),
        ("import torchaudio.functional",),
    ),
    "timeseries": Case("import torch", ("pond", "--data", "sensors.npz", "--target", "d"), ("sensor.npz",)),
    "pointcloud": Case("import torch, numba, trimesh", ("idpt", "--data", "clouds"), ("clouds/dark/0.npy",)),
}


def make_inputs(folder: Path) -> None:
    """A few samples of two classes for every package."""
    import soundfile

    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        for kind in ("photos", "clips", "clouds"):
            (folder / kind / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 128, (32, 32, 3)) + 127 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / name / f"{number}.png")
            tone = np.sin(2 * np.pi * (200 + 400 * label + 10 * number) * np.arange(16000) / 16000)
            soundfile.write(folder / "clips" / name / f"{number}.wav", 0.3 * tone.astype(np.float32), 16000)
            sphere = rng.normal(size=(1200, 3))
            sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
            flat = sphere * (1, 1, 1 - 0.7 * label)
            np.save(folder / "clouds" / name / f"{number}.npy", flat.astype(np.float32))
    _table(
        folder / "reviews.csv",
        [
            {
                "text": f"a {'fine' if number % 2 else 'dull'} film, number {number}",
                "sentiment": ("bad", "good")[number % 2],
            }
            for number in range(16)
        ],
    )
    _table(
        folder / "molecules.csv",
        [
            {"smiles": "C" * (number + 1) + "ON"[number % 2], "active": number % 2, "split": ("train", "train", "val", "test")[number % 4]}
            for number in range(16)
        ],
    )  # fmt: skip
    windows = rng.normal(size=(192, 6, 128)).astype(np.float32)
    np.savez(folder / "sensors.npz", x=windows, y=np.arange(192) // 2 % 2, domain=np.repeat(list("abcd"), 48))
    np.savez(folder / "sensor.npz", x=windows[:1])


def _table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def cpu_seconds(command: Sequence[str], folder: Path) -> float:
    """User and system time of a process that must end well."""
    environment = {**os.environ, **ALONE, "PT_CACHE": str(folder / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {said.read().decode(errors='replace')[-2000:]}")
    return float(used.ru_utime + used.ru_stime)


def fitted(script: Path, arguments: Sequence[str], run: str, folder: Path) -> float:
    shutil.rmtree(folder / run, ignore_errors=True)
    return cpu_seconds([str(script), "fit", *arguments, "--steps", "1", "--out", run], folder)


def contenders(name: str, case: Case, builds: dict[str, Path], folder: Path) -> dict[str, Callable[[], float]]:
    """The imports, and each build's fit and predict (which reads the run of its own fit)."""
    bodies: dict[str, Callable[[], float]] = {
        statement: partial(cpu_seconds, [sys.executable, "-c", statement], folder)
        for statement in (case.upstream, *case.also)
    }
    for build, scripts in builds.items():
        script, run = scripts / f"pt-{name}", f"{build}-{name}"
        predict = partial(cpu_seconds, [str(script), "predict", run, *case.predict], folder)
        fitted(script, case.fit, run, folder)
        predict()  # bytecode and compiled kernels are at hand from now on
        # The fits that are timed leave the run alone that is being predicted from.
        bodies |= {
            f"{build} fit": partial(fitted, script, case.fit, f"{run}-again", folder),
            f"{build} predict": predict,
        }
    return bodies


def row(name: str, upstream: str, judged: bool, times: Times, builds: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"package": f"pt-{name}", "upstream": upstream, "judged": judged}
    found["import_s"] = round(times.median(upstream), 2)
    for build in builds:
        for what in TARGETS:
            body = f"{build} {what}"
            found[f"{build}_{what}_s"] = round(times.median(body), 2)
            found[f"{build}_{what}_ratio"] = round(times.ratio(body, upstream), 2)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base", type=Path, help="checkout of an earlier build, with its environment in .venv")
    parser.add_argument("--packages", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    builds = {"today": Path(sys.executable).parent}
    if args.base is not None:
        builds["base"] = args.base / ".venv" / "bin"
    before, rows = load(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        for package in args.packages:
            case = CASES[package]
            times = alternate(contenders(package, case, builds, folder), args.rounds, warmup=0, measure=operator.call)
            for upstream in (case.upstream, *case.also):
                rows.append(row(package, upstream, upstream == case.upstream, times, list(builds)))
                print(rows[-1])
    head = {
        "machine": machine(),
        "load": [before, load()],
        "settings": {"rounds": args.rounds, "targets": TARGETS},
    }
    print(write("startup", head, rows, args.out))


if __name__ == "__main__":
    main()
