"""What every process of tests/core/run/train/test_distributed.py runs: trains all toys and writes down what it ended with."""

import json
import os
import sys
from pathlib import Path

import torch
from pt_core.errors import NonFiniteError
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.evaluate import evaluate
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.testing.tiny import Vectors
from safetensors.torch import save_file

from tests.core.run.train.test_trainer import Killed, build, tensors
from tests.core.toys import TOYS

# 11 samples in draws of 5, 5 and 1: uneven parts, and a draw in which the second process has no sample at all.
OPTIONS = TrainOptions(
    steps=10, batch_size=5, lr=0.1, optimizer="sgd", clip_norm=1.0, eval_every=3, checkpoint_every=2, device="cpu"
)
STEPPING = ("actor", "bilevel")
"""Toys with a custom step; they take no accumulation."""


def data():
    return {
        "train": Vectors(11, seed=1),
        "val": Vectors(7, seed=2),
        "unlabeled": Vectors(8, seed=3, labelled=False),
        "easy": Vectors(6, seed=4, shift=0.3, labelled=False),
        "hard": Vectors(9, seed=5, shift=0.8, labelled=False),
    }


def train(kind, folder, options=OPTIONS, on_step=None, resume=False, roles=None, **fit):
    """(method, metrics, records) of a run in `folder`, on however many processes there are."""
    world, method, roles = World(options), build(kind), roles or data()
    with RunDir(folder, world.main).open(resume) as run:
        run.update({"status": "running"})
        Trainer(method, roles, options, run, world, on_step).fit(resume, **fit)
    found = evaluate(method, roles["val"], world, 2, 0, records=True)
    return method, found.metrics, found.records


def stop_behind(steps):
    seen = []

    def on_step(stage, step):
        seen.append(step)
        if len(seen) == steps:
            raise Killed

    return on_step


def watch_writes(folder):
    """Paths below `folder` that this process opens for writing, except the work folders that jobs own."""
    opened = []

    def hook(event, args):
        if event == "open" and isinstance(args[0], str) and args[0].startswith(f"{folder}{os.sep}"):
            mode = args[1] or ""
            writes = any(letter in mode for letter in "wax+") if mode else bool(args[2] & (os.O_WRONLY | os.O_RDWR))
            if writes and "work" not in Path(args[0]).relative_to(folder).parts:
                opened.append(args[0])

    sys.addaudithook(hook)
    return opened


def main(out):
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    opened = watch_writes(out / "runs")
    report = {"metrics": {}, "records": {}, "pid": os.getpid()}
    for kind in TOYS:
        method, report["metrics"][kind], report["records"][kind] = train(kind, out / "runs" / kind)
        (out / "ends").mkdir(exist_ok=True)
        save_file({n: t.contiguous() for n, t in tensors(method).items()}, out / "ends" / f"{kind}-{rank}.safetensors")
    try:
        train("supervised", out / "runs" / "killed", on_step=stop_behind(5))
    except Killed:
        report["killed"] = True
    bad = data()
    bad["train"].values[[2, 9]] = float("nan")
    try:
        train("supervised", out / "runs" / "bad", roles=bad)
    except NonFiniteError as error:
        report["bad"] = str(error)
    report["opened"] = opened
    (out / f"report-{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
