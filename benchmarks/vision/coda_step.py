"""A training step of CoDA against plain self-training of the same network: time, peak memory, and agreement.

    python -m benchmarks.vision.coda_step

MiT-B0 with random weights, DAFormer head of width 256, HRDA crops of 128 px, batch 2 + 2, AdamW; drawn streets. Times alternate in one
process; peaks are those of a process of their own. Also: the memory of a source step on HRDA's two half-size views against the same
crop at full resolution. Writes results/vision_coda_step.json; the table is in docs/results/vision-segmentation.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pt_core import Batch, Method
from pt_core.data import generator
from pt_core.randomness import keyed, seeded
from pt_core.run.declare.options import build_all
from pt_vision.adapters.mit import MitBackbone
from pt_vision.modality import Vision
from pt_vision.networks.mit import build_mit, preprocessing
from pt_vision.segmentation.data.crops import TrainingView
from pt_vision.segmentation.data.streets import CLASSES, street_parts
from pt_vision.segmentation.task import Segmentation

from benchmarks._harness import alternate, in_own_process, load, machine, peak_bytes, write

CROP = 128
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "self_training": ("self_training", {}),
    "coda": ("coda", {}),
    "self_training, full-resolution crops": ("self_training", {"hrda": False}),
}
TARGET = 1.25
"""Promised bound of CoDA's time and memory relative to self-training."""


class Context:
    """A step context with one AdamW and one micro-batch, as the trainer has it, without its logs and checks."""

    def __init__(self, method: Method, batches: Mapping[str, Batch]) -> None:
        self.method, self.step, self.device = method, 0, torch.device("cpu")
        self.batches = batches
        self.optimiser = torch.optim.AdamW(method.parameters(), lr=1e-5)
        self.count = 0

    def rng(self, *key: int | str) -> torch.Generator:
        return generator("benchmark", self.step, *key)

    def each_part(self, fn: Callable[[Mapping[str, Batch]], Any]) -> list[Any]:
        return [fn({name: keyed(batch, self.step, name) for name, batch in self.batches.items()})]

    def reduce(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def gather(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def backward(self, loss: torch.Tensor, count: int, retain_graph: bool = False) -> None:
        (loss * count).backward()
        self.count += count

    def update(self, optimiser: str = "main", clip: bool = True) -> float:
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.count = 0
        return 0.0


def build(name: str) -> Any:
    """The method in training mode, equal initial values for all."""
    method, options = CONTENDERS[name]
    cls = Vision.registry.load(method)
    config = build_all({"config": cls.Config}, {**options, "crop_size": CROP})["config"]
    with seeded(0, "weights"):
        backbone = MitBackbone(build_mit("b0", decoder=False), "mit:b0", preprocessing(CROP))
    with seeded(0, "init"):
        return cls(config, {"encoder": backbone}, Segmentation(CLASSES)).train()


def batches() -> Mapping[str, Batch]:
    parts = street_parts(0.7, (("train", 2), ("target", 2)))
    drawn = {}
    for name, role, labelled in (("source", "train", True), ("target", "target", False)):
        view = TrainingView(parts[role].bind(preprocessing(CROP)), CROP, labelled=labelled)
        drawn[name] = view.collate([0, 1], [view.sample(n, epoch=0, seed=0) for n in range(2)])
    return drawn


def memory(name: str) -> None:
    """Print the peak of one step, behind a first one that allocates optimiser state."""
    method = build(name)
    context = Context(method, batches())
    method.step(context)
    before, peak = peak_bytes(lambda: method.step(context))
    print(json.dumps({"before": before, "peak": peak}))


def agreement() -> float:
    """Largest difference of the losses of CoDA with zero prompts and adapters from those of self-training, relative."""
    losses = []
    for name in ("self_training", "coda"):
        method = build(name)
        if name == "coda":
            with torch.no_grad():
                for branch in method.network.prompts.branches:
                    branch.up.zero_()
                    branch.up_bias.zero_()
        torch.manual_seed(0)
        losses.append(method.step(Context(method, batches())))
    first, second = losses
    return max(abs(float(first[key]) - float(second[key])) / max(1e-6, abs(float(first[key]))) for key in first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", choices=list(CONTENDERS), help="print the peak of one contender and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        memory(args.memory)
        return
    data = batches()
    contexts = {name: Context(build(name), data) for name in ("self_training", "coda")}
    times = alternate({name: lambda c=context: c.method.step(c) for name, context in contexts.items()}, args.rounds)
    peaks = {name: in_own_process("benchmarks.vision.coda_step", ["--memory", name]) for name in CONTENDERS}
    own = {name: peak["peak"] - peak["before"] for name, peak in peaks.items()}
    parameters = {name: context.method.parameter_count() for name, context in contexts.items()}
    rows = [
        {
            "what": "coda / self_training",
            "target": TARGET,
            "time_ratio": round(times.ratio("coda", "self_training"), 3),
            "spread": round(times.spread("coda", "self_training"), 3),
            "seconds": {name: round(times.median(name), 3) for name in contexts},
            "peak_ratio": round(own["coda"] / own["self_training"], 3),
            "peak_mb": {name: round(value / 2**20) for name, value in own.items()},
            "parameters": parameters,
            "loss_difference_with_zero_prompts": agreement(),
        },
        {
            "what": "HRDA views / full-resolution crops",
            "peak_ratio": round(own["self_training"] / own["self_training, full-resolution crops"], 3),
        },
    ]
    content = {"machine": machine(), "load": load(), "rounds": args.rounds, "crop": CROP, "batch": "2 + 2"}
    print(json.dumps(rows, indent=1))
    print(f"written: {write('vision_coda_step', content, rows, args.out)}", file=sys.stderr)


if __name__ == "__main__":
    main()
